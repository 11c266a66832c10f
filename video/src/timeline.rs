//! Times of frames from the ticks of a stream's clock.

use std::sync::Arc;

/// The times of all frames, and how regular they are.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    pub fps: f64,
    pub variable: bool,
    pub times: Arc<[f64]>,
    pub duration: f64,
}

/// The mean distance of frames as the container states it: `count` frames last `ticks`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    pub count: u64,
    pub ticks: u64,
}

/// How long one tick is: `num / den` seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    pub num: u64,
    pub den: u64,
}

impl Tick {
    pub fn seconds(self, ticks: i64) -> f64 {
        (ticks as f64 * self.num as f64) / self.den as f64
    }
}

impl Timeline {
    /// From sorted presentation ticks, each shown for `last` ticks at the end, and the container's mean distance.
    pub fn from_ticks(pts: &[i64], last: i64, mean: Mean, tick: Tick) -> Self {
        let first = pts.first().copied().unwrap_or(0);
        let end = pts.last().copied().unwrap_or(0).saturating_add(last.max(0));
        let duration = tick.seconds(end.saturating_sub(first));
        let fps = rate(pts.len(), duration, mean, tick);
        let variable = is_variable(pts, mean);
        let times = if variable {
            pts.iter().map(|&p| tick.seconds(p.saturating_sub(first))).collect()
        } else {
            regular(pts.len(), fps)
        };
        Self { fps, variable, times, duration }
    }

    /// From sorted presentation ticks and the average rate `num/den` that FFmpeg states.
    pub fn from_rate(pts: &[i64], (num, den): (u64, u64), tick: Tick) -> Self {
        // A frame lasts den/num seconds; in a clock that is `num` times finer these are whole ticks.
        let factor = i64::try_from(num).unwrap_or(i64::MAX);
        let fine: Vec<i64> = pts.iter().map(|p| p.saturating_mul(factor)).collect();
        let step = den.saturating_mul(tick.den) / tick.num.max(1);
        let mean = Mean { count: 0, ticks: 0 };
        let last = i64::try_from(step / num.max(1)).unwrap_or(i64::MAX);
        let line = Self::from_ticks(pts, last, mean, tick);
        let first = fine.first().copied().unwrap_or(0);
        let place = |i: usize| i as f64 * step as f64;
        let off = |(i, &p): (usize, &i64)| (p.saturating_sub(first) as f64 - place(i)).abs();
        let limit = num as f64 * (1.0 + 1e-6);
        let fps = num as f64 / den as f64;
        if line.variable || fine.iter().enumerate().map(off).any(|off| off > limit) {
            let start = pts.first().copied().unwrap_or(0);
            let times = pts.iter().map(|&p| tick.seconds(p.saturating_sub(start))).collect();
            return Self { fps, variable: true, times, duration: line.duration };
        }
        Self { fps, variable: false, times: regular(pts.len(), fps), duration: line.duration }
    }

    /// `count` frames at exactly `fps`.
    pub fn regular(count: usize, fps: f64) -> Self {
        Self { fps, variable: false, times: regular(count, fps), duration: count as f64 / fps }
    }
}

fn regular(count: usize, fps: f64) -> Arc<[f64]> {
    (0..count).map(|i| i as f64 / fps).collect()
}

/// Frames per second as FFmpeg's `avg_frame_rate`: exact integers, divided once.
fn rate(frames: usize, duration: f64, mean: Mean, tick: Tick) -> f64 {
    if mean.count > 0 && mean.ticks > 0 {
        let [count, ticks, num, den] = [mean.count, mean.ticks, tick.num, tick.den].map(u128::from);
        return count.saturating_mul(den) as f64 / ticks.saturating_mul(num) as f64;
    }
    if duration > 0.0 { frames as f64 / duration } else { 1.0 }
}

/// Whether any frame is off an even grid by more than the rounding to ticks: distances may differ by one tick,
/// and no frame may be more than one tick away from its place at the mean rate.
fn is_variable(pts: &[i64], mean: Mean) -> bool {
    let Some(&first) = pts.first() else { return false };
    let distances = pts.windows(2).map(|w| w[1].saturating_sub(w[0]));
    let low = distances.clone().min().unwrap_or(0);
    let high = distances.max().unwrap_or(0);
    if pts.len() > 1 && high.saturating_sub(low) > 1 {
        return true;
    }
    if mean.count == 0 || mean.ticks == 0 {
        return false;
    }
    let step = mean.ticks as f64 / mean.count as f64;
    let off = |(i, &p): (usize, &i64)| (p.saturating_sub(first) as f64 - i as f64 * step).abs();
    pts.iter().enumerate().map(off).any(|off| off > 1.0 + 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pts: &[i64], last: i64, mean: (u64, u64), den: u64) -> Timeline {
        let mean = Mean { count: mean.0, ticks: mean.1 };
        Timeline::from_ticks(pts, last, mean, Tick { num: 1, den })
    }

    #[test]
    fn constant_rate_is_index_over_fps() {
        let found = line(&[1001, 2002, 3003, 4004, 5005], 1001, (5, 5005), 30000);
        assert!(!found.variable);
        assert_eq!(found.fps, 30000.0 / 1001.0);
        for (i, &time) in found.times.iter().enumerate() {
            assert_eq!(time, i as f64 / (30000.0 / 1001.0));
        }
    }

    #[test]
    fn millisecond_rounding_is_constant() {
        let pts: Vec<i64> = (0..90).map(|i| (i as f64 * 1000.0 / 30.0).round() as i64).collect();
        assert!(!line(&pts, 33, (90, 3000), 1000).variable);
    }

    #[test]
    fn a_pause_is_variable_and_keeps_the_streams_times() {
        let found = line(&[0, 40, 80, 160, 200], 40, (5, 240), 1000);
        assert!(found.variable);
        assert_eq!(&found.times[..], &[0.0, 0.04, 0.08, 0.16, 0.2]);
        assert_eq!(found.duration, 0.24);
    }

    #[test]
    fn an_odd_last_frame_does_not_shift_the_others() {
        let found = line(&[0, 40, 80, 120], 400, (4, 520), 1000);
        assert!(found.variable);
        assert_eq!(found.times[3], 0.12);
    }
}
