//! Parts of dates, in UTC.

use promesh_model::time::civil_from_days;

use super::super::QueryError;
use super::super::eval::Evaluator;
use super::super::grid::{Grid, Steps};
use super::super::plan::Node;

/// The function of this name, from seconds since the epoch.
pub(super) fn function(name: &str) -> Option<fn(i64) -> f64> {
    Some(match name {
        "minute" => |seconds| seconds.div_euclid(60).rem_euclid(60) as f64,
        "hour" => |seconds| seconds.div_euclid(3600).rem_euclid(24) as f64,
        "day_of_week" => |seconds| (day(seconds) + 4).rem_euclid(7) as f64,
        "day_of_month" => |seconds| f64::from(civil_from_days(day(seconds)).2),
        "day_of_year" => |seconds| {
            let (year, ..) = civil_from_days(day(seconds));
            (day(seconds) - day_of_new_year(year) + 1) as f64
        },
        "days_in_month" => |seconds| {
            let (year, month, _) = civil_from_days(day(seconds));
            match month {
                2 if is_leap(year) => 29.0,
                2 => 28.0,
                4 | 6 | 9 | 11 => 30.0,
                _ => 31.0,
            }
        },
        "month" => |seconds| f64::from(civil_from_days(day(seconds)).1),
        "year" => |seconds| civil_from_days(day(seconds)).0 as f64,
        _ => return None,
    })
}

fn day(seconds: i64) -> i64 {
    seconds.div_euclid(86_400)
}

fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

/// The day number of January 1st.
fn day_of_new_year(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
}

/// Seconds whose dates can be told without overflow; far beyond any date of use.
const SECONDS_MAX: f64 = 1e16;

impl Evaluator<'_> {
    /// A part of the date of each value, or, without an argument, of the instant of evaluation.
    pub(super) fn date(&mut self, arg: Option<&Node>, part: fn(i64) -> f64, steps: Steps) -> Result<Grid, QueryError> {
        match arg {
            None => Ok(Grid::scalar(steps.times().map(|at| part(at / 1000)).collect())),
            Some(arg) => self.map_floats(arg, steps, |_, value| part(value.clamp(-SECONDS_MAX, SECONDS_MAX) as i64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days() {
        let check = |name: &str, seconds: i64, expected: f64| {
            assert_eq!(function(name).expect(name)(seconds), expected, "{name}({seconds})");
        };
        check("day_of_year", 1_709_164_800, 60.0);
        check("days_in_month", 1_709_164_800, 29.0);
        check("day_of_week", 0, 4.0);
        check("day_of_year", -1, 365.0);
        check("year", -1, 1969.0);
        check("hour", -1, 23.0);
    }
}
