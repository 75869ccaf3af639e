//! How many requests at a time a provider bears, found out by how long it takes to answer.
//!
//! A provider that is given more than it can work on queues the rest, and its latency rises: the limit follows the gradient
//! of that, `limit * floor / now + sqrt(limit)`, as Envoy's adaptive concurrency filter and Netflix' concurrency-limits
//! (`Gradient2Limit`) do. What it says itself (429, 503) or does not say (a timeout) counts as a drop: the limit is cut by a
//! part, once for all drops of requests that were under way together (TCP: Jacobson, Congestion Avoidance and Control, 1988).
//!
//! The floor, the latency without a queue, changes when the provider does. So it is measured again from time to time with
//! half the limit (BBR does it so: Cardwell et al., 2016), and where the limit has come down to its minimum.
//!
//! Pure: the time is passed in. It is meant to stand behind a mutex, a step costs some tens of nanoseconds. Which latency is
//! measured (to the first byte, say, where answers are long) is up to the caller, and so is what happens to a request that
//! is not let in.

use std::collections::VecDeque;
use std::time::Duration;

use tollgate_types::Timestamp;

/// The limit of one provider.
#[derive(Debug)]
pub struct Limiter {
    settings: Settings,
    limit: f64,
    in_flight: u32,
    /// The latency without a queue, and when it was measured.
    floor: Option<(Duration, Timestamp)>,
    /// While it is being measured again: the limit that was before, and since when.
    probe: Option<(f64, Timestamp)>,
    window: Window,
    /// Drops of requests that entered before this have been answered for.
    cut_at: Timestamp,
}

/// What bounds a limiter. All of it has a default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// It never lets in fewer.
    pub limit_min: u32,
    pub limit_max: u32,
    pub limit_first: u32,
    /// A window of measurement is at least so long and has at least so many answers.
    pub window: Duration,
    pub window_answers_min: usize,
    /// Latency may be so many times the floor before it is taken for a queue.
    pub tolerance: f64,
    /// What is left of the limit after a drop.
    pub kept_after_drop: f64,
    /// The floor is believed for so long.
    pub floor_age_max: Duration,
}

/// Leave to ask the provider once. It is given back with [`Limiter::leave`].
#[derive(Debug)]
#[must_use = "a slot that is not given back is taken for ever"]
pub struct Slot {
    entered: Timestamp,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// After so long the provider answered.
    Answered(Duration),
    /// It said that it has too much to do, or nothing in time.
    Dropped,
    /// It says nothing about the provider: the caller left, or the request was wrong.
    Untold,
}

/// Answers since the last step.
#[derive(Debug)]
struct Window {
    since: Timestamp,
    latencies: VecDeque<Duration>,
    /// As many as there may be were under way at some time: so the limit was what held requests back.
    was_full: bool,
}

/// Latencies of a window that are looked at; of more, the last ones.
const ANSWERS_MAX: usize = 1_024;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit_min: 4,
            limit_max: 1_024,
            limit_first: 20,
            window: Duration::from_millis(100),
            window_answers_min: 10,
            tolerance: 1.2,
            kept_after_drop: 0.9,
            floor_age_max: Duration::from_secs(30),
        }
    }
}

// === impl Limiter ===

impl Limiter {
    pub fn new(settings: Settings) -> Self {
        let limit_min = settings.limit_min.max(1);
        let limit_max = settings.limit_max.max(limit_min);
        let share = |share: f64, least: f64, most: f64| if share.is_finite() { share.clamp(least, most) } else { most };
        let settings = Settings {
            limit_min,
            limit_max,
            tolerance: share(settings.tolerance, 1.0, 10.0),
            kept_after_drop: share(settings.kept_after_drop, 0.1, 1.0),
            window_answers_min: settings.window_answers_min.clamp(1, ANSWERS_MAX),
            ..settings
        };
        let limit = f64::from(settings.limit_first.clamp(limit_min, limit_max));
        let window = Window { since: Timestamp(i64::MIN), latencies: VecDeque::new(), was_full: false };
        Self { settings, limit, in_flight: 0, floor: None, probe: None, window, cut_at: Timestamp(i64::MIN) }
    }

    /// Leave for one more request, if the provider bears one more.
    pub fn try_enter(&mut self, now: Timestamp) -> Option<Slot> {
        if self.window.since.0 == i64::MIN {
            self.window.since = now;
        }
        if self.in_flight >= self.limit() {
            self.window.was_full = true;
            return None;
        }
        self.in_flight += 1;
        self.window.was_full |= self.in_flight >= self.limit();
        Some(Slot { entered: now })
    }

    /// A request has ended.
    pub fn leave(&mut self, now: Timestamp, slot: Slot, outcome: Outcome) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Untold => {}
            Outcome::Dropped => self.cut(now, slot.entered),
            Outcome::Answered(latency) => {
                self.window.add(latency);
                if self.window.is_whole(now, &self.settings) {
                    self.step(now);
                }
            }
        }
    }

    /// Requests that may be under way together.
    pub fn limit(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between limit_min and limit_max")]
        let limit = self.limit as u32;
        limit
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The latency without a queue, as far as it is known.
    pub fn floor(&self) -> Option<Duration> {
        self.floor.map(|(floor, _)| floor)
    }

    /// Less, once for all requests that were under way when the first of them was dropped.
    fn cut(&mut self, now: Timestamp, entered: Timestamp) {
        if entered < self.cut_at {
            return;
        }
        self.cut_at = now;
        self.probe = None;
        self.set(self.limit * self.settings.kept_after_drop);
        self.window.begin(now);
    }

    /// A window is whole: what it measured changes the floor or the limit.
    fn step(&mut self, now: Timestamp) {
        let Some(latency) = self.window.median() else { return };
        let was_full = self.window.was_full;
        self.window.begin(now);
        if let Some((before, since)) = self.probe {
            return self.probed(now, latency, before, since);
        }
        let at_least = self.limit() <= self.settings.limit_min;
        let (floor, measured_at) = *self.floor.get_or_insert((latency, now));
        if latency <= floor || at_least {
            self.floor = Some((latency, now));
        } else if now.since(measured_at) >= self.settings.floor_age_max {
            self.probe = Some((self.limit, now));
            return self.set(self.limit / 2.0);
        }
        let floor = self.floor.map_or(latency, |(floor, _)| floor).as_secs_f64();
        let gradient = (self.settings.tolerance * floor / latency.as_secs_f64().max(1e-9)).clamp(0.5, 1.0);
        let next = self.limit * gradient + if was_full { self.limit.sqrt() } else { 0.0 };
        // Nothing is learnt about more while nobody asks for more.
        if was_full || next < self.limit {
            self.set(0.8 * self.limit + 0.2 * next);
        }
    }

    /// Half the limit has been in force: once those that entered before have left, what is measured is the floor.
    fn probed(&mut self, now: Timestamp, latency: Duration, before: f64, since: Timestamp) {
        if now.since(since) < self.settings.window + 2 * latency {
            return;
        }
        self.floor = Some((latency, now));
        self.probe = None;
        self.set(before);
    }

    fn set(&mut self, limit: f64) {
        let (least, most) = (f64::from(self.settings.limit_min), f64::from(self.settings.limit_max));
        self.limit = if limit.is_finite() { limit.clamp(least, most) } else { least };
    }
}

// === impl Window ===

impl Window {
    fn begin(&mut self, now: Timestamp) {
        self.since = now;
        self.latencies.clear();
        self.was_full = false;
    }

    fn add(&mut self, latency: Duration) {
        if self.latencies.len() >= ANSWERS_MAX {
            self.latencies.pop_front();
        }
        self.latencies.push_back(latency);
    }

    fn is_whole(&self, now: Timestamp, settings: &Settings) -> bool {
        self.latencies.len() >= settings.window_answers_min && now.since(self.since) >= settings.window
    }

    fn median(&mut self) -> Option<Duration> {
        let middle = self.latencies.len() / 2;
        if self.latencies.is_empty() {
            return None;
        }
        Some(*self.latencies.make_contiguous().select_nth_unstable(middle).1)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;

    /// A provider that works on so many at a time, each for so long, and queues the rest; more than `held` it refuses.
    struct Provider {
        places: usize,
        each: Duration,
        held: u32,
        free_at: BinaryHeap<Reverse<Timestamp>>,
    }

    /// What callers saw in a second.
    #[derive(Debug, Default)]
    struct Second {
        answered: u32,
        dropped: u32,
        latency: Duration,
        limit: u32,
    }

    /// Callers that always have one more request; the provider is changed by `at` before each second.
    struct World {
        limiter: Limiter,
        provider: Provider,
        ends: BinaryHeap<Reverse<(Timestamp, Timestamp, bool)>>,
        now: Timestamp,
    }

    impl World {
        fn new(settings: Settings, places: usize, each_ms: u64) -> Self {
            let free_at = BinaryHeap::new();
            let provider = Provider { places, each: Duration::from_millis(each_ms), held: u32::MAX, free_at };
            Self { limiter: Limiter::new(settings), provider, ends: BinaryHeap::new(), now: Timestamp(0) }
        }

        /// One second with so many requests offered, evenly.
        fn second(&mut self, offered: u32) -> Second {
            let mut seen = Second::default();
            let begin = self.now;
            for index in 0..offered {
                self.now = begin.plus(Duration::from_secs(1) * index / offered);
                self.end_until(self.now, &mut seen);
                let Some(slot) = self.limiter.try_enter(self.now) else { continue };
                let end = self.provider.take(self.now, self.ends.len());
                self.ends.push(Reverse((
                    end.unwrap_or(self.now.plus(Duration::from_millis(1))),
                    self.now,
                    end.is_some(),
                )));
                assert!(self.limiter.in_flight() <= self.limiter.limit().max(1_024));
                std::mem::drop(slot);
            }
            self.now = begin.plus(Duration::from_secs(1));
            seen.latency /= seen.answered.max(1);
            seen.limit = self.limiter.limit();
            seen
        }

        fn end_until(&mut self, now: Timestamp, seen: &mut Second) {
            while let Some(Reverse((end, entered, answered))) = self.ends.peek().copied().filter(|end| end.0.0 <= now) {
                self.ends.pop();
                let latency = end.since(entered);
                let outcome = if answered { Outcome::Answered(latency) } else { Outcome::Dropped };
                self.limiter.leave(end, Slot { entered }, outcome);
                seen.answered += u32::from(answered);
                seen.dropped += u32::from(!answered);
                seen.latency += if answered { latency } else { Duration::ZERO };
            }
        }

        fn seconds(&mut self, count: u32, offered: u32) -> Second {
            (0..count).map(|_| self.second(offered)).last().expect("at least one")
        }
    }

    impl Provider {
        /// When it answers; `None` if it refuses.
        fn take(&mut self, now: Timestamp, under_way: usize) -> Option<Timestamp> {
            if u32::try_from(under_way).unwrap_or(u32::MAX) >= self.held {
                return None;
            }
            while self.free_at.len() > self.places {
                self.free_at.pop();
            }
            let begin = if self.free_at.len() < self.places { now } else { self.free_at.pop()?.0.max(now) };
            let end = begin.plus(self.each);
            self.free_at.push(Reverse(end));
            Some(end)
        }
    }

    #[test]
    fn the_limit_finds_what_the_provider_bears_without_queueing_there() {
        for (places, each_ms) in [(10, 50), (40, 100), (100, 200)] {
            let mut world = World::new(Settings::default(), places, each_ms);
            let seen = world.seconds(25, 4_000);
            let capacity = u32::try_from(places).unwrap() * 1_000 / u32::try_from(each_ms).unwrap();
            assert!(seen.answered >= capacity * 9 / 10, "{places} places: {seen:?}");
            assert!(seen.latency <= Duration::from_millis(each_ms) * 17 / 10, "{places} places: {seen:?}");
        }
    }

    #[test]
    fn the_limit_follows_when_the_capacity_halves_and_when_it_comes_back() {
        let mut world = World::new(Settings::default(), 40, 100);
        assert!(world.seconds(25, 4_000).answered >= 360);
        world.provider.places = 20;
        let halved = world.seconds(15, 4_000);
        assert!(halved.limit <= 40 && halved.answered >= 180, "{halved:?}");
        world.provider.places = 40;
        let back = world.seconds(60, 4_000);
        assert!(back.answered >= 360, "{back:?}");
    }

    #[test]
    fn a_provider_that_became_slower_without_queueing_is_not_choked_for_ever() {
        // By half the floor must be measured again; three times bring the limit down to its minimum, which does it, too.
        for each_ms in [150, 300] {
            let mut world = World::new(Settings::default(), 40, 100);
            world.seconds(20, 4_000);
            world.provider.each = Duration::from_millis(each_ms);
            let seen = world.seconds(90, 4_000);
            let capacity = 40_000 / u32::try_from(each_ms).unwrap();
            assert!(seen.answered >= capacity * 8 / 10, "{each_ms} ms: {seen:?}");
        }
    }

    #[test]
    fn refusals_of_the_provider_hold_the_limit_where_it_refuses() {
        let mut world = World::new(Settings::default(), 1_000, 100);
        world.provider.held = 50;
        let seen = world.seconds(30, 4_000);
        assert!((40..=60).contains(&seen.limit), "{seen:?}");
        assert!(seen.dropped * 20 <= seen.answered, "{seen:?}");
    }

    #[test]
    fn drops_of_requests_that_were_under_way_together_count_once_and_never_below_the_minimum() {
        let mut limiter = Limiter::new(Settings::default());
        let slots: Vec<Slot> = (0..20).filter_map(|_| limiter.try_enter(Timestamp(0))).collect();
        assert_eq!(slots.len(), 20);
        assert!(limiter.try_enter(Timestamp(0)).is_none(), "the limit holds");
        for slot in slots {
            limiter.leave(Timestamp(1_000), slot, Outcome::Dropped);
        }
        assert_eq!(limiter.limit(), 18);
        for at in 2..200 {
            let slot = limiter.try_enter(Timestamp(at * 1_000)).expect("the minimum is always let in");
            limiter.leave(Timestamp(at * 1_000), slot, Outcome::Dropped);
        }
        assert_eq!(limiter.limit(), 4);
    }

    #[test]
    fn who_never_asks_for_more_does_not_move_the_limit() {
        let mut world = World::new(Settings::default(), 100, 20);
        let seen = world.seconds(20, 200);
        assert_eq!(seen.limit, 20, "{seen:?}");
    }

    #[test]
    fn a_request_that_tells_nothing_only_gives_its_slot_back() {
        let mut limiter = Limiter::new(Settings::default());
        for at in 0..100 {
            let slot = limiter.try_enter(Timestamp(at)).expect("all before have left");
            limiter.leave(Timestamp(at), slot, Outcome::Untold);
        }
        assert_eq!((limiter.in_flight(), limiter.limit(), limiter.floor()), (0, 20, None));
    }

    #[test]
    fn whatever_is_measured_the_limit_stays_within_its_bounds() {
        let odd =
            Settings { limit_min: 0, limit_max: 0, tolerance: f64::NAN, kept_after_drop: -1.0, ..Settings::default() };
        let mut limiter = Limiter::new(odd);
        for at in 0..10_000_i64 {
            let now = Timestamp(at * 50_000);
            let Some(slot) = limiter.try_enter(now) else { continue };
            let latency = [Duration::ZERO, Duration::MAX, Duration::from_nanos(1)][usize::try_from(at % 3).unwrap()];
            limiter.leave(now, slot, if at % 7 == 0 { Outcome::Dropped } else { Outcome::Answered(latency) });
            assert_eq!(limiter.limit(), 1);
        }
    }
}
