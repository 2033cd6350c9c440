# A static binary in an empty image: nothing to run but stagedoor, nothing to patch but stagedoor.
# The builder's architecture is the image's: build on arm64 for arm64.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
# Dependencies first, so that a change of ours does not build them again.
RUN target="$(uname -m)-unknown-linux-musl" \
 && export "CC_$(uname -m)_unknown_linux_musl=musl-gcc" \
 && rustup target add "$target" \
 && mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && cargo build --locked --release --target "$target" \
 && rm -r src
COPY src src
RUN target="$(uname -m)-unknown-linux-musl" \
 && export "CC_$(uname -m)_unknown_linux_musl=musl-gcc" \
 && touch src/main.rs src/lib.rs \
 && cargo build --locked --release --target "$target" \
 && cp "target/$target/release/stagedoor" /stagedoor

FROM scratch
COPY --from=build /stagedoor /stagedoor
COPY LICENSE /LICENSE
# nonroot, as in the distroless images. A number, so that runAsNonRoot can be checked.
USER 65532:65532
# Backstage's image has its files here too: the same --config means the same file.
WORKDIR /app
EXPOSE 5432 9432
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/stagedoor", "health"]
ENTRYPOINT ["/stagedoor"]
CMD ["run"]
