//! A hold that grows for somebody dearer: by no more than every cap leaves, and without a cap's say where it does not grow.

use tollgate_ledger::books::Headroom;
use tollgate_ledger::{Amounts, Record};
use tollgate_types::usage::Outcome;
use tollgate_types::{Basis, PicoSum, Window, Zone};

use crate::world::{Desk, Who, both, budget_refusal, measured};

/// A desk whose tenant has a cap of 100 over this window.
fn desk(window: Window) -> (Desk, Who) {
    let (desk, who) = (Desk::new(), Who::acme());
    let [tenant, ..] = who.scopes();
    desk.cap(&tenant, window, Basis::Cost, PicoSum(100));
    (desk, who)
}

#[test]
fn it_may_grow_to_what_the_caps_leave_and_to_no_more() {
    for window in Window::ALL {
        let (desk, who) = desk(window);
        let other = desk.reserve(&who, 1, both(30)).expect("there is room");
        let mut growing = desk.reserve(&who, 2, both(20)).expect("there is room");
        // A cap on a single request does not count the other one.
        let most = if window == Window::Request { 100 } else { 70 };
        let (provider, model, version) = ("dear".into(), "large".into(), "v2".into());
        let mut asked = None;
        let amount = |room| {
            asked = Some(room);
            (both(most + 1), ())
        };
        let refused = growing.extend_within(amount, &provider, &model, &version, &Zone::UTC);
        let room = Headroom { cost: Some(PicoSum(i128::from(most))), charge: None };
        assert_eq!(asked, Some(room), "{window}: the whole hold, not what is added");
        assert_eq!(budget_refusal(refused).needed.0, most + 1 - 20, "{window}");
        assert_eq!(growing.hold(), both(20), "{window}: what is refused changes nothing");
        growing.extend(both(most), &provider, &model, &version, &Zone::UTC).expect("just so much");
        assert_eq!(growing.hold(), both(most), "{window}");
        let Record::Extended(extended) = desk.last_record() else { panic!("{window}: it is on record") };
        assert_eq!((extended.hold, extended.provider, extended.model), (both(most), provider, model));
        assert!(growing.post(measured(both(most))).is_some() && other.void(Outcome::NotSent).is_some());
    }
}

#[test]
fn where_it_does_not_grow_a_cap_that_was_lowered_has_no_say_and_the_record_says_who_answers() {
    let (desk, who) = desk(Window::Day);
    let mut held = desk.reserve(&who, 1, both(80)).expect("there is room");
    let [tenant, ..] = who.scopes();
    desk.cap(&tenant, Window::Day, Basis::Cost, PicoSum(10));
    let (provider, model, version) = ("cheap".into(), "small".into(), "v2".into());
    let room = |room: Headroom| {
        assert_eq!(room.cost, Some(PicoSum(80)), "what is held already may stay");
        (both(5), ())
    };
    held.extend_within(room, &provider, &model, &version, &Zone::UTC).expect("it takes nothing from work under way");
    assert_eq!(held.hold(), both(80), "a hold does not shrink");
    let Record::Extended(extended) = desk.last_record() else { panic!("it is on record") };
    assert_eq!((extended.hold, extended.provider), (both(80), provider.clone()));
    let more = Amounts { cost: both(81).cost, ..both(80) };
    let refused = held.extend(more, &provider, &model, &version, &Zone::UTC);
    assert_eq!(budget_refusal(refused).needed.0, 1, "but more is for the cap to allow");
}
