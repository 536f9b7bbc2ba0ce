//! What a node's wall clock showed when: what is due is due by that clock.
//! Microseconds, on the scale of the world's time.

/// From the moment of its last setting on, each in turn.
#[derive(Debug, Default)]
pub struct WallClock {
    settings: Vec<Setting>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Setting {
    at: u64,
    ahead_us: i64,
    drift_ppm: i64,
}

impl Setting {
    fn shows(&self, at: u64) -> i64 {
        let passed = at.saturating_sub(self.at) as i64;
        at as i64 + self.ahead_us + passed * self.drift_ppm / 1_000_000
    }
}

impl WallClock {
    pub fn set(&mut self, at: u64, ahead_us: i64, drift_ppm: i64) {
        self.settings.push(Setting { at, ahead_us, drift_ppm });
    }

    pub fn shows(&self, at: u64) -> i64 {
        let known = self.settings.iter().rev().find(|setting| setting.at <= at);
        known.copied().unwrap_or_default().shows(at)
    }

    /// The least and the most that it showed between these times.
    pub fn range(&self, from: u64, to: u64) -> (i64, i64) {
        let (first, last) = (self.shows(from), self.shows(to));
        let mut range = (first.min(last), first.max(last));
        let later = self.settings.iter().rev().take_while(|setting| setting.at >= from);
        for (index, setting) in later.enumerate().filter(|(_, setting)| setting.at <= to) {
            let place = self.settings.len() - 1 - index;
            let before = place.checked_sub(1).map(|before| self.settings[before]);
            let shown = [before.unwrap_or_default().shows(setting.at), setting.shows(setting.at)];
            range = (range.0.min(shown[0].min(shown[1])), range.1.max(shown[0].max(shown[1])));
        }
        range
    }

    /// How much time has passed by a clock of the same speed that nobody sets.
    pub fn passed(&self, from: u64, to: u64) -> i64 {
        let drift = |setting: &Setting, from: u64, to: u64| {
            to.saturating_sub(from) as i64 * setting.drift_ppm / 1_000_000
        };
        let ends = self.settings.iter().skip(1).map(|next| next.at).chain([u64::MAX]);
        let spans = self.settings.iter().zip(ends);
        let gained = spans.map(|(s, end)| drift(s, s.at.max(from), end.min(to))).sum::<i64>();
        to.saturating_sub(from) as i64 + gained
    }

    /// The most that it would show at `to` if nobody had set it any more since
    /// some moment between these times.
    pub fn would_show(&self, from: u64, to: u64) -> i64 {
        let first = Setting::default();
        let settings = std::iter::once(&first).chain(&self.settings);
        let ends = self.settings.iter().map(|next| next.at).chain([u64::MAX]);
        let known = settings.zip(ends).filter(|(set, end)| set.at <= to && *end > from);
        let left_alone = known.map(|(set, end)| {
            let end = end.min(to);
            set.shows(end) + self.passed(end, to)
        });
        left_alone.max().unwrap_or(to as i64)
    }

    /// When, by the world's time, it shows this, if it goes on as at `now`.
    pub fn when(&self, shown: i64, now: u64) -> u64 {
        (now as i64 + (shown - self.shows(now))).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_has_shown_everything_between() {
        let mut clock = WallClock::default();
        assert_eq!((clock.shows(5), clock.range(5, 9)), (5, (5, 9)));
        clock.set(100, 1_000, 0);
        clock.set(200, -50, 100_000);
        assert_eq!([clock.shows(99), clock.shows(150), clock.shows(300)], [99, 1_150, 260]);
        assert_eq!(clock.range(90, 300), (90, 1_200));
        assert_eq!(clock.range(150, 300), (150, 1_200));
        assert_eq!(clock.range(210, 300), (161, 260));
        assert_eq!(clock.when(360, 300), 400);
        assert_eq!([clock.would_show(150, 300), clock.would_show(210, 300)], [1_310, 260]);
    }
}
