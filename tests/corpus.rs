//! Replays what the fuzzers know: every file of `fuzz/corpus/<target>` through the same assertions as its target.

use std::path::Path;

use stagedoor::sql::dialect::Dialect;
use stagedoor::sql::dialect::Strings;
use stagedoor::sql::effect::effect;
use stagedoor::sql::signal::rewrite_pids;

#[test]
fn sql_effect() -> std::io::Result<()> {
    for text in corpus("sql_effect")? {
        let read = |strings| effect(&text, Dialect { strings, ..Dialect::default() });
        let both = read(Strings::Standard) | read(Strings::Escaped);
        assert_eq!(read(Strings::Either), both, "{}", String::from_utf8_lossy(&text));
        rewrite_pids(&text, Dialect::default(), &mut |pid| Some(pid / 2));
    }
    Ok(())
}

/// The files of a target; at least one, or the directory is not where it should be.
fn corpus(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(directory)?.map(|entry| std::fs::read(entry?.path()));
    let texts = files.collect::<std::io::Result<Vec<_>>>()?;
    assert_ne!(texts.len(), 0, "no corpus for {target}");
    Ok(texts)
}
