//! The same script straight against PostgreSQL and through stagedoor: no client can tell.

use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;

/// Two worlds with the same content: a database without stagedoor, and one behind it.
pub struct Worlds<'a> {
    pub direct: Target,
    pub through: Target,
    pub cluster: &'a Cluster,
    /// A client that sits in a transaction: of the two servers that a budget has at least, one is left to share.
    holder: Client,
}

impl<'a> Worlds<'a> {
    /// Both databases, after `setup` has been done in each.
    pub fn new(cluster: &'a Cluster, stagedoor: &Stagedoor, label: &str, setup: &str) -> Self {
        let direct = cluster.direct(&cluster.database(label));
        let through = stagedoor.target(&cluster.database(label));
        for target in [&direct, &through] {
            if !setup.is_empty() {
                let mut client = Client::connect(&cluster.direct(&target.database)).expect("a login");
                client.rows(setup);
                client.leave();
            }
        }
        let mut holder = stagedoor.connect(&through.database);
        holder.rows("begin");
        Self { direct, through, cluster, holder }
    }

    /// How many server connections the world behind stagedoor has now, the holder's aside.
    pub fn servers(&self) -> usize {
        self.cluster.open(&self.through.database).0 - 1
    }

    /// Nothing more to compare: what the holder held is free.
    pub fn end(self) {
        self.holder.leave();
    }

    /// Runs `script` with one client in each world; all that they read must be the same.
    pub fn same(&self, script: impl Fn(&mut Client)) {
        self.same_with(&|target| target, 1, |clients| script(&mut clients[0]));
    }

    /// As [`Self::same`] with several clients, whose connections `adjust` may change.
    pub fn same_with(
        &self,
        adjust: &dyn Fn(Target) -> Target,
        clients: usize,
        script: impl Fn(&mut [Client]),
    ) {
        let [direct, through] = [&self.direct, &self.through].map(|target| {
            let connect = |_| Client::connect(&adjust(target.clone())).expect("a login");
            let mut clients: Vec<Client> = (0..clients).map(connect).collect();
            script(&mut clients);
            let transcripts = clients.iter_mut().map(|client| std::mem::take(&mut client.transcript));
            let transcripts: Vec<Vec<String>> = transcripts.collect();
            clients.into_iter().for_each(Client::leave);
            transcripts
        });
        for (number, (direct, through)) in direct.iter().zip(&through).enumerate() {
            for (at, (message, read)) in direct.iter().zip(through).enumerate() {
                let before = direct.get(at.saturating_sub(24)..at).unwrap_or_default();
                assert_eq!(
                    read, message,
                    "client {number}, message {at}: left is through stagedoor; before it: {before:#?}"
                );
            }
            assert_eq!(through.len(), direct.len(), "client {number}: {through:#?} {direct:#?}");
        }
    }
}
