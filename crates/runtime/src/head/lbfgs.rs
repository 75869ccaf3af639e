//! Where a smooth convex function is least: L-BFGS (Liu and Nocedal, "On the limited memory BFGS method for large scale
//! optimization", Mathematical Programming 45, 1989), with a backtracking line search.
//!
//! Ours, because what there is does not fit: `argmin` brings a framework and a clock, `linfa-logistic` stands on it and takes
//! dense matrices only (ten thousand texts by 2^15 buckets are 2.6 GB), liblinear is C++. And the result must be the same to
//! the last bit everywhere: one thread, sums in a written order, no fused operations but those in the source.

use std::collections::VecDeque;
use std::ops::ControlFlow;

/// How many steps are remembered. More save few iterations here, and each costs two vectors as large as the weights.
const MEMORY: usize = 6;
/// Armijo's: a step must gain this share of what the slope promises.
const GAIN: f64 = 1e-4;
/// A step halved so often moves nothing an f32 could hold.
const HALVINGS_MAX: u32 = 30;
/// A sum goes over so many lanes that the compiler can keep them in registers; their order is fixed.
const LANES: usize = 16;

/// When it is good enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub iterations_max: u32,
    /// The largest component of the gradient at which it stops.
    pub slope: f64,
    /// The relative decrease below which it stops.
    pub decrease: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Minimum {
    pub at: Vec<f32>,
    pub value: f64,
    pub iterations: u32,
    pub converged: bool,
}

/// One remembered step: how the place and how the gradient changed.
struct Step {
    place: Vec<f32>,
    slope: Vec<f32>,
    /// 1 / (place . slope)
    rho: f64,
}

/// From `at` downhill. `value` says the function's value there and writes its gradient. `seen` is told after each iteration
/// (number, value) and may stop it; then there is no minimum.
pub(super) fn minimise(
    mut at: Vec<f32>,
    limits: Limits,
    mut value: impl FnMut(&[f32], &mut [f32]) -> f64,
    mut seen: impl FnMut(u32, f64) -> ControlFlow<()>,
) -> Option<Minimum> {
    let mut gradient = vec![0.0; at.len()];
    let mut current = value(&at, &mut gradient);
    let mut steps: VecDeque<Step> = VecDeque::new();
    let (mut trial, mut trial_gradient) = (vec![0.0; at.len()], vec![0.0; at.len()]);
    for iteration in 1..=limits.iterations_max {
        if largest(&gradient) <= limits.slope {
            return Some(Minimum { at, value: current, iterations: iteration - 1, converged: true });
        }
        let mut direction = downhill(&gradient, &steps);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // What is remembered misleads: begin anew with steepest descent.
            steps.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = dot(&direction, &gradient);
        }
        // The first step has no scale yet; a length of one is as good as any.
        let mut factor = if steps.is_empty() { 1.0 / slope.abs().sqrt() } else { 1.0 };
        let mut halvings = 0;
        let next = loop {
            move_to(&mut trial, &at, &direction, factor);
            let next = value(&trial, &mut trial_gradient);
            if next <= current + GAIN * factor * slope {
                break Some(next);
            }
            halvings += 1;
            if halvings > HALVINGS_MAX {
                break None;
            }
            factor *= 0.5;
        };
        let Some(next) = next else {
            // No step gains anything an f32 could tell: this is the bottom, as far as it can be seen.
            return Some(Minimum { at, value: current, iterations: iteration - 1, converged: true });
        };
        remember(&mut steps, difference(&trial, &at), difference(&trial_gradient, &gradient));
        std::mem::swap(&mut at, &mut trial);
        std::mem::swap(&mut gradient, &mut trial_gradient);
        let decrease = (current - next) / current.abs().max(next.abs()).max(1e-12);
        current = next;
        if seen(iteration, current).is_break() {
            return None;
        }
        if decrease <= limits.decrease {
            return Some(Minimum { at, value: current, iterations: iteration, converged: true });
        }
    }
    Some(Minimum { at, value: current, iterations: limits.iterations_max, converged: false })
}

/// The two loops of Nocedal's recursion: minus the gradient, as the remembered steps say the function is curved.
fn downhill(gradient: &[f32], steps: &VecDeque<Step>) -> Vec<f32> {
    let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let share = step.rho * dot(&step.place, &direction);
        add(&mut direction, &step.slope, -share);
        shares.push(share);
    }
    if let Some(last) = steps.back() {
        let scale = 1.0 / (last.rho * dot(&last.slope, &last.slope));
        direction.iter_mut().for_each(|d| *d = narrow(f64::from(*d) * scale));
    }
    for (step, share) in steps.iter().zip(shares.into_iter().rev()) {
        let back = step.rho * dot(&step.slope, &direction);
        add(&mut direction, &step.place, share - back);
    }
    direction
}

/// A step along which the function is not curved upwards says nothing about its shape.
fn remember(steps: &mut VecDeque<Step>, place: Vec<f32>, slope: Vec<f32>) {
    let curvature = dot(&place, &slope);
    if curvature <= 1e-10 * dot(&slope, &slope).sqrt() * dot(&place, &place).sqrt() {
        return;
    }
    if steps.len() == MEMORY {
        steps.pop_front();
    }
    steps.push_back(Step { place, slope, rho: 1.0 / curvature });
}

fn move_to(trial: &mut [f32], at: &[f32], direction: &[f32], factor: f64) {
    let factor = narrow(factor);
    for ((trial, at), direction) in trial.iter_mut().zip(at).zip(direction) {
        *trial = at + factor * direction;
    }
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add(to: &mut [f32], what: &[f32], factor: f64) {
    let factor = narrow(factor);
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

/// Lane by lane, then the lanes: the order is part of the result.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (heads, tails) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = heads.remainder().iter().zip(tails.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in heads.zip(tails) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

fn largest(values: &[f32]) -> f64 {
    f64::from(values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { iterations_max: 500, slope: 1e-5, decrease: 0.0 };

    fn going_on(_: u32, _: f64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Curved a thousand times more along its last axis than along its first, its bottom at (1, 2, 3, ...).
    fn bowl(at: &[f32], gradient: &mut [f32]) -> f64 {
        let mut value = 0.0;
        for (number, (at, gradient)) in at.iter().zip(gradient).enumerate() {
            let curvature = 10_f32.powi(i32::try_from(number).expect("few") % 4);
            let away = at - (number + 1) as f32;
            *gradient = curvature * away;
            value += 0.5 * f64::from(curvature) * f64::from(away) * f64::from(away);
        }
        value
    }

    /// Rosenbrock's valley: banana-shaped, and its bottom at (1, 1).
    fn valley(at: &[f32], gradient: &mut [f32]) -> f64 {
        let (x, y) = (at[0], at[1]);
        gradient[0] = -2.0 * (1.0 - x) - 400.0 * x * (y - x * x);
        gradient[1] = 200.0 * (y - x * x);
        f64::from(1.0 - x).powi(2) + 100.0 * f64::from(y - x * x).powi(2)
    }

    #[test]
    fn it_finds_the_bottom_of_a_long_bowl_and_of_a_bent_valley() {
        let bottom = minimise(vec![0.0; 4], LIMITS, bowl, going_on).expect("nobody stops it");
        assert!(bottom.converged && bottom.value < 1e-9, "{bottom:?}");
        let bottom = minimise(vec![-1.2, 1.0], LIMITS, valley, going_on).expect("nobody stops it");
        assert!((bottom.at[0] - 1.0).abs() < 1e-2 && (bottom.at[1] - 1.0).abs() < 1e-2, "{bottom:?}");
    }

    #[test]
    fn it_says_when_it_ran_out_of_iterations_and_stops_when_told() {
        let limits = Limits { iterations_max: 2, ..LIMITS };
        let end = minimise(vec![-1.2, 1.0], limits, valley, going_on).expect("nobody stops it");
        assert_eq!((end.iterations, end.converged), (2, false));
        let mut told = 0;
        let stop = |iteration, _| {
            told = iteration;
            if iteration == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(minimise(vec![-1.2, 1.0], LIMITS, valley, stop).is_none());
        assert_eq!(told, 3);
    }

    #[test]
    fn a_sum_has_all_its_parts() {
        for length in [0, 1, 15, 16, 17, 40] {
            let a: Vec<f32> = (0..length).map(|number| number as f32).collect();
            let expected: f64 = a.iter().map(|a| f64::from(*a) * 2.0).sum();
            assert_eq!(dot(&a, &vec![2.0; a.len()]), expected);
        }
    }
}
