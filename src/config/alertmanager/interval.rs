//! Named intervals of time: when routes are muted or active.
//!
//! Source: alertmanager timeinterval/timeinterval.go.

use promesh_model::Timestamp;
use promesh_model::time::civil_from_days;
use promesh_model::zone::Zone;

use crate::section;
use crate::yaml::{Node, Reader, Show, Yaml};

section! {
    /// A name and its intervals; an instant lies in it when it lies in any.
    pub struct NamedInterval "time_interval" => check_named {
        /// What routes call it.
        pub name: String,
        /// The intervals.
        pub time_intervals: Vec<TimeInterval>,
    }
}

section! {
    /// An interval: every list that is given must hold the instant.
    pub struct TimeInterval "time_interval" {
        /// Hours of the day.
        pub times: Vec<TimeRange>,
        /// Days of the week.
        pub weekdays: Vec<WeekdayRange>,
        /// Days of the month; negative ones from its end.
        pub days_of_month: Vec<DayRange>,
        /// Months.
        pub months: Vec<MonthRange>,
        /// Years.
        pub years: Vec<YearRange>,
        /// Where the clock hangs. Default UTC.
        pub location: Location,
    }
}

section! {
    /// From one minute of the day to before another.
    pub struct TimeRange "time_range" => check_times {
        /// `HH:MM`.
        pub start_time: ClockTime,
        /// `HH:MM`, up to 24:00; not in the range itself.
        pub end_time: ClockTime,
    }
}

fn check_named(named: &mut NamedInterval, node: &Node, reader: &mut Reader<'_>) {
    if named.name.is_empty() {
        reader.problem(node.at, "missing name in time interval");
    }
}

fn check_times(range: &mut TimeRange, node: &Node, reader: &mut Reader<'_>) {
    match (range.start_time.0, range.end_time.0) {
        (Some(start), Some(end)) if start >= end => {
            reader.problem(node.at, "start time cannot be equal or greater than end time");
        }
        (Some(_), Some(_)) => {}
        _ => reader.problem(node.at, "both start and end times must be provided"),
    }
}

/// Minutes since midnight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockTime(pub Option<u32>);

impl Yaml for ClockTime {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "string").unwrap_or_default();
        let minutes = text.split_once(':').and_then(|(hour, minute)| {
            let wide = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            let (hour, minute): (u32, u32) =
                (wide(hour).then(|| hour.parse().ok())??, wide(minute).then(|| minute.parse().ok())??);
            (minute < 60 && hour * 60 + minute <= 24 * 60).then_some(hour * 60 + minute)
        });
        if minutes.is_none() {
            reader.problem(node.at, format!("couldn't parse timestamp {text}, invalid format"));
        }
        ClockTime(minutes)
    }
    fn show(&self, _: Show) -> Node {
        let minutes = self.0.unwrap_or(0);
        Node::text(format!("{:02}:{:02}", minutes / 60, minutes % 60))
    }
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }
}

/// A zone by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// As written.
    pub name: String,
    /// What it means.
    pub zone: Zone,
}

impl Default for Location {
    fn default() -> Location {
        Location { name: String::new(), zone: Zone::utc() }
    }
}

impl Yaml for Location {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let name = reader.scalar(node, "string").unwrap_or_default();
        match Zone::named(name) {
            Ok(zone) => Location { name: name.to_owned(), zone },
            Err(error) => {
                reader.problem(node.at, error.to_string());
                Location::default()
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(&*self.name)
    }
    fn is_zero(&self) -> bool {
        self.name.is_empty()
    }
}

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn weekday(text: &str) -> Result<i64, String> {
    let at = WEEKDAYS.iter().position(|name| *name == text.to_lowercase());
    at.map(|at| at as i64).ok_or_else(|| format!("{text} is not a valid weekday"))
}

fn month(text: &str) -> Result<i64, String> {
    if let Some(at) = MONTHS.iter().position(|name| *name == text.to_lowercase()) {
        return Ok(at as i64 + 1);
    }
    text.parse().ok().filter(|month| (1..=12).contains(month)).ok_or_else(|| format!("{text} is not a valid month"))
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn check_weekdays(begin: i64, end: i64) -> Result<(), String> {
    if begin > end { Err("start day cannot be before end day".to_owned()) } else { Ok(()) }
}

fn check_days(begin: i64, end: i64) -> Result<(), String> {
    for day in [begin, end] {
        if day == 0 || !(-31..=31).contains(&day) {
            return Err(format!("{day} is not a valid day of the month: out of range"));
        }
    }
    if begin < 0 && end > 0 {
        return Err("end day must be negative if start day is negative".to_owned());
    }
    // The shortest month decides what can never be.
    let from_start = |day: i64| if day < 0 { 28 + day } else { day };
    if from_start(begin) > from_start(end) {
        return Err(format!("end day {end} is always before start day {begin}"));
    }
    Ok(())
}

fn check_months(begin: i64, end: i64) -> Result<(), String> {
    if begin <= end {
        return Ok(());
    }
    let name = |month: i64| MONTHS[month as usize - 1];
    Err(format!("end month {} is before start month {}", name(end), name(begin)))
}

fn check_years(begin: i64, end: i64) -> Result<(), String> {
    if begin > end { Err(format!("end year {end} is before start year {begin}")) } else { Ok(()) }
}

macro_rules! ranges {
    ($($(#[$meta:meta])* $name:ident, $part:path, $check:path;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// First, inclusive.
            pub begin: i64,
            /// Last, inclusive.
            pub end: i64,
            text: String,
        }

        impl Yaml for $name {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
                let text = reader.scalar(node, "string").unwrap_or_default();
                let (begin, end) = text.split_once(':').unwrap_or((text, text));
                let range = $part(begin).and_then(|begin| $part(end).map(|end| (begin, end)));
                match range.and_then(|(begin, end)| $check(begin, end).map(|()| (begin, end))) {
                    Ok((begin, end)) => $name { begin, end, text: text.to_owned() },
                    Err(reason) => {
                        reader.problem(node.at, reason);
                        $name::default()
                    }
                }
            }
            fn show(&self, _: Show) -> Node {
                Node::text(&*self.text)
            }
        }
    )*};
}

ranges! {
    /// Days of the week, Sunday as 0: `monday:friday`.
    WeekdayRange, weekday, check_weekdays;
    /// Days of the month: `1:5`, `-3:-1`.
    DayRange, number, check_days;
    /// Months: `january:march`, `5:8`.
    MonthRange, month, check_months;
    /// Years: `2020:2022`.
    YearRange, number, check_years;
}

impl TimeInterval {
    /// Whether an instant lies in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        let seconds = at.ms().div_euclid(1000);
        let (offset, _) = self.location.zone.offset_at(seconds);
        let local = seconds + i64::from(offset);
        let day_number = local.div_euclid(86_400);
        let minute = (local.rem_euclid(86_400) / 60) as u32;
        let (year, month, day) = civil_from_days(day_number);
        let weekday = (day_number + 4).rem_euclid(7);
        let any = |empty: bool, found: bool| empty || found;
        let in_times = self.times.iter().any(|range| {
            range.start_time.0.is_some_and(|start| start <= minute) && range.end_time.0.is_some_and(|end| minute < end)
        });
        any(self.times.is_empty(), in_times)
            && any(self.days_of_month.is_empty(), self.contains_day(year, month, day))
            && any(self.months.is_empty(), self.months.iter().any(|r| (r.begin..=r.end).contains(&i64::from(month))))
            && any(self.weekdays.is_empty(), self.weekdays.iter().any(|r| (r.begin..=r.end).contains(&weekday)))
            && any(self.years.is_empty(), self.years.iter().any(|r| (r.begin..=r.end).contains(&year)))
    }

    fn contains_day(&self, year: i64, month: u32, day: u32) -> bool {
        let days = days_in_month(year, month);
        let absolute = |day: i64| if day < 0 { days + day + 1 } else { day };
        self.days_of_month.iter().any(|range| {
            let (begin, end) = (absolute(range.begin), absolute(range.end));
            begin <= days && (begin.max(1)..=end.min(days)).contains(&i64::from(day))
        })
    }
}

fn days_in_month(year: i64, month: u32) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl NamedInterval {
    /// Whether an instant lies in any of its intervals.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.time_intervals.iter().any(|interval| interval.contains(at))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::yaml;

    fn interval(text: &str) -> Result<TimeInterval, String> {
        let node = yaml::parse("i.yml", text.as_bytes()).expect("well-formed");
        let mut reader = Reader::new("i.yml", text.as_bytes(), Path::new(""));
        let interval = TimeInterval::read(&node, &mut reader);
        match reader.into_problems().first() {
            None => Ok(interval),
            Some(problem) => Err(problem.message.clone()),
        }
    }

    #[test]
    fn intervals_hold_what_they_say() {
        // 2024-01-31 is a Wednesday.
        let noon = Timestamp(1_706_702_400_000);
        for (text, expected) in [
            ("{}", true),
            ("weekdays: ['monday:friday']", true),
            ("weekdays: [saturday, sunday]", false),
            ("days_of_month: ['-1']", true),
            ("days_of_month: ['1:30']", false),
            ("months: ['december', '1']", true),
            ("years: ['2020:2023']", false),
            ("times: [{start_time: '11:00', end_time: '12:00'}]", false),
            ("times: [{start_time: '12:00', end_time: '24:00'}]", true),
            ("{times: [{start_time: '13:00', end_time: '13:01'}], location: Europe/Paris}", true),
        ] {
            assert_eq!(interval(text).map(|interval| interval.contains(noon)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for (text, expected) in [
            ("weekdays: ['friday:monday']", "start day cannot be before end day"),
            ("weekdays: ['caturday']", "caturday is not a valid weekday"),
            ("days_of_month: ['0']", "0 is not a valid day of the month: out of range"),
            ("days_of_month: ['-5:3']", "end day must be negative if start day is negative"),
            ("days_of_month: ['10:5']", "end day 5 is always before start day 10"),
            ("months: ['5:january']", "end month january is before start month may"),
            ("times: [{start_time: '25:00', end_time: '26:00'}]", "couldn't parse timestamp 25:00, invalid format"),
            (
                "times: [{start_time: '10:00', end_time: '10:00'}]",
                "start time cannot be equal or greater than end time",
            ),
            ("location: Mars/Olympus", "unknown time zone Mars/Olympus"),
        ] {
            assert_eq!(interval(text).unwrap_err(), expected, "{text}");
        }
    }
}
