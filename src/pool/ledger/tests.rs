//! Who gets which server, told step by step.

use super::*;
use crate::pool::book::TURN;

const LIMITS: Limits = Limits { servers_max: 100, idle_min: 0, idle_timeout: Duration::from_secs(60) };

const fn fit(state: u64) -> Fit {
    Fit { state, custom: 0, name: 0, strict: false }
}

struct World {
    ledger: Ledger<&'static str>,
    now: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn new(budget: usize) -> Self {
        let mut ledger = Ledger::new(budget);
        (0..4).for_each(|pool| ledger.add(pool, LIMITS));
        Self { ledger, now: Instant::now() }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn request(&mut self, pool: PoolId) -> Request<&'static str> {
        self.ledger.request(pool, &fit(0), self.now)
    }

    fn give_back(
        &mut self,
        pool: PoolId,
        server: &'static str,
        state: u64,
    ) -> Option<(Ticket, Grant<&'static str>)> {
        let expires = self.now + Duration::from_secs(3600);
        self.ledger.give_back(pool, Returned { server, fit: fit(state), expires }, self.now)
    }
}

#[test]
fn pools_grow_inside_the_budget_and_then_take_the_idle_servers_of_others() {
    let mut world = World::new(2);
    assert_eq!(world.request(0), Request::Granted(Grant::Connect));
    assert_eq!(world.request(0), Request::Granted(Grant::Connect));
    assert_eq!(world.give_back(0, "a", 0), None);
    assert_eq!(world.request(1), Request::Granted(Grant::Replace("a")));
    assert_eq!(world.give_back(0, "b", 0), None);
    assert_eq!(world.request(1), Request::Queued(1));
    let now = world.now;
    assert_eq!(world.ledger.look_again(now), None);
    world.wait(PATIENCE);
    let now = world.now;
    assert_eq!(world.ledger.look_again(now), Some((1, Grant::Replace("b"))));
    assert_eq!(world.request(1), Request::Queued(2));
    assert_eq!(world.ledger.open(), 2);
    assert_eq!(world.ledger.count(1), Count { open: 2, idle: 0, waiting: 1 });
}

#[test]
fn a_server_whose_settings_fit_is_preferred_and_else_the_one_that_rested_longest() {
    let mut world = World::new(3);
    for _ in 0..3 {
        world.request(0);
    }
    for (server, state) in [("a", 7), ("b", 8), ("c", 9)] {
        world.give_back(0, server, state);
    }
    let now = world.now;
    assert_eq!(world.ledger.request(0, &fit(8), now), Request::Granted(Grant::Server("b")));
    assert_eq!(world.ledger.request(0, &fit(1), now), Request::Granted(Grant::Server("a")));
}

#[test]
fn where_no_login_works_open_servers_are_used_and_none_is_closed() {
    let mut world = World::new(3);
    let hour = Some(world.now + Duration::from_secs(3600));
    world.request(0);
    world.request(1);
    for pool in [0, 2] {
        world.ledger.hold(pool, hour);
    }
    assert_eq!(world.request(0), Request::Queued(1), "it has one");
    let now = world.now;
    assert_eq!(world.ledger.look_again(now), None);
    assert_eq!(world.give_back(0, "a", 0), Some((1, Grant::Server("a"))));
    let custom = Returned { server: "a", fit: Fit { custom: 5, ..fit(0) }, expires: now };
    assert_eq!(world.ledger.give_back(0, custom, now), None);
    assert_eq!(world.request(0), Request::Queued(2), "none is closed for another");
    assert_eq!(world.request(2), Request::Granted(Grant::Connect), "one tries, where there is none");
    assert_eq!(world.request(2), Request::Queued(3));
    assert_eq!(world.ledger.closed(2, now), Some((3, Grant::Connect)), "then the next one");
    assert_eq!(world.give_back(1, "b", 0), None);
    world.ledger.hold(0, None);
    world.wait(PATIENCE);
    let now = world.now;
    assert_eq!(world.ledger.look_again(now), Some((2, Grant::Replace("b"))), "it may be tried again");
}

#[test]
fn one_that_does_not_suit_is_given_only_where_there_is_no_room_for_another() {
    let mut world = World::new(2);
    world.request(0);
    let custom = Returned { server: "a", fit: Fit { custom: 5, ..fit(1) }, expires: world.now };
    world.ledger.give_back(0, custom, world.now);
    assert_eq!(world.request(0), Request::Granted(Grant::Connect));
    assert_eq!(world.request(0), Request::Granted(Grant::Server("a")), "to be closed and opened anew");
    world.give_back(0, "b", 3);
    let strict = Fit { name: 9, strict: true, ..fit(3) };
    let now = world.now;
    world.ledger.closed(0, now);
    assert_eq!(world.ledger.request(0, &strict, now), Request::Granted(Grant::Connect));
    assert_eq!(
        world.ledger.request(0, &Fit { strict: false, ..strict }, now),
        Request::Granted(Grant::Server("b"))
    );
}

#[test]
fn waiters_are_served_in_their_order_and_one_that_left_is_passed_over() {
    let mut world = World::new(1);
    world.request(0);
    assert_eq!(world.request(0), Request::Queued(1));
    assert_eq!(world.request(0), Request::Queued(2));
    assert_eq!(world.request(0), Request::Queued(3));
    world.ledger.abandon(1);
    assert_eq!(world.give_back(0, "a", 0), Some((2, Grant::Server("a"))));
    let now = world.now;
    assert_eq!(world.ledger.closed(0, now), Some((3, Grant::Connect)));
}

#[test]
fn a_database_that_has_nothing_is_served_before_one_that_has() {
    let mut world = World::new(1);
    world.request(0);
    assert_eq!(world.request(1), Request::Queued(1));
    assert_eq!(world.request(0), Request::Queued(2));
    assert_eq!(world.give_back(0, "a", 0), Some((1, Grant::Replace("a"))));
    assert_eq!(world.ledger.count(1).open, 1);
}

#[test]
fn a_waiter_of_another_database_is_passed_over_for_a_short_time_only() {
    let mut world = World::new(2);
    world.request(0);
    world.request(1);
    assert_eq!(world.request(1), Request::Queued(1));
    assert_eq!(world.request(0), Request::Queued(2));
    assert_eq!(world.give_back(0, "a", 0), Some((2, Grant::Server("a"))));
    assert_eq!(world.request(0), Request::Queued(3));
    world.wait(PATIENCE);
    assert_eq!(world.give_back(0, "a", 0), Some((3, Grant::Server("a"))));
    assert_eq!(world.request(0), Request::Queued(4));
    world.wait(PATIENCE_MAX);
    assert_eq!(world.give_back(0, "a", 0), Some((1, Grant::Replace("a"))));
}

#[test]
fn a_pool_with_clearly_more_than_its_share_gives_up_a_server_sooner() {
    let mut world = World::new(4);
    for pool in [0, 0, 0, 1] {
        world.request(pool);
    }
    assert_eq!(world.request(1), Request::Queued(1));
    assert_eq!(world.request(0), Request::Queued(2));
    world.wait(PATIENCE);
    assert_eq!(world.give_back(0, "a", 0), Some((1, Grant::Replace("a"))));
    assert_eq!(world.request(1), Request::Queued(3));
    world.wait(PATIENCE);
    assert_eq!(world.give_back(0, "b", 0), Some((2, Grant::Server("b"))));
}

#[test]
fn what_rests_or_lives_too_long_is_reaped_and_its_place_stays_taken_until_it_is_closed() {
    let mut world = World::new(2);
    world.request(0);
    world.request(0);
    world.give_back(0, "a", 0);
    world.wait(Duration::from_secs(61));
    world.give_back(0, "b", 0);
    let now = world.now;
    assert_eq!(world.ledger.reap(now, |_| false), [(0, "a", Reaped::Idle)]);
    assert_eq!(world.ledger.open(), 2);
    world.ledger.closed(0, now);
    assert_eq!(world.ledger.reap(now, |_| true), [(0, "b", Reaped::Dead)]);
}

#[test]
fn a_turn_begins_with_the_login_and_ends_though_others_log_in_within_it() {
    let mut world = World::new(1);
    world.request(0);
    assert_eq!(world.request(1), Request::Queued(1));
    assert_eq!(world.request(0), Request::Queued(2));
    assert_eq!(world.give_back(0, "a", 0), Some((1, Grant::Replace("a"))));
    world.wait(PATIENCE_MAX);
    world.ledger.opened(1, world.now);
    assert_eq!(world.give_back(1, "b", 0), None, "its client may come back");
    assert_eq!(world.ledger.look_again(world.now), None);
    assert_eq!(world.request(1), Request::Granted(Grant::Server("b")));
    // That one did not suit: it was opened anew.
    world.wait(TURN / 2);
    world.ledger.opened(1, world.now);
    assert_eq!(world.give_back(1, "c", 0), None);
    world.wait(PAUSE);
    assert_eq!(world.ledger.look_again(world.now), Some((2, Grant::Replace("c"))), "nobody came back");
    world.ledger.opened(0, world.now);
    assert_eq!(world.request(1), Request::Queued(3));
    world.wait(TURN);
    assert_eq!(world.give_back(0, "d", 0), Some((3, Grant::Replace("d"))));
}
