use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seconds(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from).unwrap().as_secs()
}

const NOW: u64 = 1_000_000;

fn life(length: u64) -> Lifetime {
    Lifetime::new(at(NOW), at(NOW + length))
}

fn failure(count: u32) -> Failure {
    Failure { count, kind: Kind::Passing, is_cached: false, retry_after: None }
}

#[test]
fn twelve_hours_are_renewed_around_the_sixth() {
    let twelve_hours = life(12 * 3600);
    let earliest = after_success(twelve_hours, Issuer::Minting, 0.0);
    let latest = after_success(twelve_hours, Issuer::Minting, 1.0);
    assert_eq!(earliest.at, at(NOW + 19_440));
    assert!(seconds(at(NOW), latest.at).abs_diff(23_760) <= 1);
    assert_eq!(earliest.reason, Reason::HalfLife);
}

#[test]
fn a_caching_issuer_is_left_alone_until_its_last_minutes() {
    let hour = life(3600);
    assert_eq!(after_success(hour, Issuer::Caching, 0.0).at, at(NOW + 3300));
    assert_eq!(after_success(hour, Issuer::Caching, 1.0).at, at(NOW + 3330));
    // Asked early, by a signal.
    let early = after_same_token(at(NOW + 60), hour, Issuer::Caching, 0.0);
    assert_eq!((early.at, early.reason), (at(NOW + 3300), Reason::LastMinutes));
    // Asked in time, and it still has the old one.
    let again = after_same_token(at(NOW + 3335), hour, Issuer::Caching, 1.0);
    assert_eq!((again.at, again.reason), (at(NOW + 3365), Reason::SameToken));
}

#[test]
fn an_issuer_that_should_have_minted_is_asked_after_half_of_what_is_left() {
    let hour = life(3600);
    assert_eq!(after_same_token(at(NOW + 1800), hour, Issuer::Minting, 0.0).at, at(NOW + 2700));
    assert_eq!(after_same_token(at(NOW + 3590), hour, Issuer::Minting, 0.0).at, at(NOW + 3605));
}

#[test]
fn pauses_after_failures_grow_to_a_minute_and_shrink_towards_the_end() {
    let ceiling = |count, left| {
        seconds(at(NOW), after_failure(at(NOW), Some(at(NOW + left)), failure(count), 1.0).at)
    };
    let grown: Vec<u64> = (1..=8).map(|count| ceiling(count, 6 * 3600)).collect();
    assert_eq!(grown, [2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(ceiling(1000, 160), 10);
    assert_eq!(ceiling(1000, 5), 1);
    // Past the end, and before the beginning.
    assert_eq!(ceiling(1000, 0), 30);
    assert_eq!(seconds(at(NOW), after_failure(at(NOW), None, failure(1000), 1.0).at), 30);
}

#[test]
fn an_issuer_on_the_machine_itself_is_asked_every_few_seconds() {
    let failure = Failure { is_cached: true, ..failure(1000) };
    for left in [0, 5, 160, 3600] {
        let next = after_failure(at(NOW), Some(at(NOW + left)), failure, 1.0);
        assert!(seconds(at(NOW), next.at) <= 10, "{left}");
    }
}

#[test]
fn a_denial_is_asked_again_slowly_but_for_ever() {
    let denied = Failure { count: 5, kind: Kind::Lasting, is_cached: false, retry_after: None };
    for left in [None, Some(at(NOW + 10)), Some(at(NOW + 6 * 3600))] {
        let soonest = after_failure(at(NOW), left, denied, 0.0);
        let latest = after_failure(at(NOW), left, denied, 1.0);
        assert_eq!(soonest.at, at(NOW + 60));
        assert!(latest.at >= at(NOW + 90) && latest.at <= at(NOW + 300));
        assert_eq!(soonest.reason, Reason::RetrySlowly);
    }
}

#[test]
fn what_is_not_there_yet_is_asked_for_every_second_for_a_good_minute() {
    let pause = |count, dice| {
        let failure =
            Failure { count, kind: Kind::NotThereYet, is_cached: false, retry_after: None };
        after_failure(at(NOW), None, failure, dice).at.duration_since(at(NOW)).unwrap()
    };
    let minute: Duration = (1..=60).map(|count| pause(count, 0.5)).sum();
    assert!((60..75).contains(&minute.as_secs()), "{minute:?}");
    assert!(pause(60, 1.0) <= Duration::from_secs(2));
    assert_eq!(pause(61, 1.0), Duration::from_secs(10));
}

#[test]
fn twins_that_start_together_do_not_ask_together() {
    assert_eq!(at_start(at(NOW), 0.0).at, at(NOW));
    assert_eq!(at_start(at(NOW), 1.0).at, at(NOW) + Duration::from_millis(500));
    // Restarted after one of twelve hours: nothing is due, and no one asks.
    let twelve_hours = life(12 * 3600);
    let young = after_restart(at(NOW + 3600), twelve_hours, 0.0);
    assert_eq!(young, after_success(twelve_hours, Issuer::Minting, 0.0));
    // After eight: ten minutes are room enough for all.
    let old = at(NOW + 8 * 3600);
    assert_eq!(after_restart(old, twelve_hours, 0.0).at, old);
    assert_eq!(after_restart(old, twelve_hours, 1.0).at, old + Duration::from_mins(10));
    // Nobody waits longer than a quarter of what is left.
    let last_minute = at(NOW + 12 * 3600 - 60);
    assert_eq!(
        after_restart(last_minute, twelve_hours, 1.0).at,
        last_minute + Duration::from_secs(15)
    );
}

#[test]
fn a_service_that_names_a_pause_gets_it_but_not_at_the_price_of_the_token() {
    let asked = |seconds| Failure { retry_after: Some(Duration::from_secs(seconds)), ..failure(1) };
    let pause = |left, failure| {
        seconds(at(NOW), after_failure(at(NOW), Some(at(NOW + left)), failure, 0.0).at)
    };
    assert_eq!(pause(6 * 3600, asked(45)), 45);
    assert_eq!(pause(6 * 3600, asked(86_400)), 300);
    assert_eq!(pause(600, asked(86_400)), 60);
    assert_eq!(pause(0, asked(86_400)), 30);
}

proptest! {
    #[test]
    fn a_token_is_replaced_while_it_lives(length in 4_u64..36 * 3600, dice in 0.0..=1.0_f64) {
        let life = life(length);
        for issuer in [Issuer::Minting, Issuer::Caching] {
            let next = after_success(life, issuer, dice).at;
            prop_assert!(next > life.issued(), "{issuer:?} {length}");
            prop_assert!(next < life.expires(), "{issuer:?} {length}");
        }
    }

    #[test]
    fn the_next_try_is_never_in_the_past_and_never_far(
        count in any::<u32>(),
        left in prop::option::of(0_u64..36 * 3600),
        kind in prop::sample::select(vec![Kind::Passing, Kind::Lasting, Kind::NotThereYet]),
        is_cached in any::<bool>(),
        retry_after in prop::option::of(any::<u64>().prop_map(Duration::from_secs)),
        dice in 0.0..=1.0_f64,
    ) {
        let failure = Failure { count, kind, is_cached, retry_after };
        let next = after_failure(at(NOW), left.map(|left| at(NOW + left)), failure, dice).at;
        prop_assert!(next >= at(NOW) + SHORTEST_RETRY);
        prop_assert!(next <= at(NOW) + LASTING_CEILING);
        // A passing failure leaves room for several further tries.
        if let (Some(left @ 16..), Kind::Passing, None) = (left, kind, retry_after) {
            prop_assert!(next <= at(NOW + left / 16).max(at(NOW + 1)) + Duration::from_secs(1));
        }
    }

    #[test]
    fn the_same_token_is_never_asked_for_in_a_hot_loop(
        length in 1_u64..36 * 3600, age in 0_u64..40 * 3600, dice in 0.0..=1.0_f64,
    ) {
        for issuer in [Issuer::Minting, Issuer::Caching] {
            let now = at(NOW + age);
            let next = after_same_token(now, life(length), issuer, dice).at;
            prop_assert!(next > now);
        }
    }
}
