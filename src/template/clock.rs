//! Go's `time.Time` and `time.Duration` as templates use them: layouts written with the reference time
//! `Mon Jan 2 15:04:05 MST 2006`, printing, parsing and arithmetic.

use promesh_model::labels::quoted;
use promesh_model::time::{Timestamp, civil_from_days};
use promesh_model::zone::Zone;

/// An instant with a zone to show it in.
#[derive(Clone, Debug)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds of the second, below 10⁹.
    pub nanos: u32,
    /// Where it is shown.
    pub zone: Zone,
}

/// Seconds of Go's zero time, 0001-01-01 00:00 UTC.
const ZERO_SECONDS: i64 = -62_135_596_800;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The parts of an instant as a clock on the wall shows them.
#[derive(Clone, Debug)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// Month, 1–12.
    pub month: u32,
    /// Day of the month, from 1.
    pub day: u32,
    /// Hour, 0–23.
    pub hour: u32,
    /// Minute.
    pub minute: u32,
    /// Second.
    pub second: u32,
    /// 0 is Sunday.
    pub weekday: u32,
    /// Day of the year, from 1.
    pub year_day: u32,
    /// Seconds east of UTC.
    pub offset: i32,
    /// `CET`, or the offset where the zone has no letters.
    pub abbreviation: String,
}

impl Time {
    /// Go's zero time.
    pub fn zero() -> Time {
        Time { seconds: ZERO_SECONDS, nanos: 0, zone: Zone::utc() }
    }

    /// From nanoseconds since the epoch, in UTC.
    pub fn from_unix_nanos(nanos: i128) -> Time {
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(ZERO_SECONDS);
        Time { seconds, nanos: nanos.rem_euclid(1_000_000_000) as u32, zone: Zone::utc() }
    }

    /// Nanoseconds since the epoch.
    pub fn unix_nanos(&self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Whether it is Go's zero time.
    pub fn is_zero(&self) -> bool {
        self.seconds == ZERO_SECONDS && self.nanos == 0
    }

    /// The same instant in another zone.
    pub fn with_zone(&self, zone: Zone) -> Time {
        Time { zone, ..self.clone() }
    }

    /// The instant `nanos` later.
    pub fn plus(&self, nanos: i64) -> Time {
        Time::from_unix_nanos(self.unix_nanos() + i128::from(nanos)).with_zone(self.zone.clone())
    }

    /// What the wall clock shows.
    pub fn civil(&self) -> Civil {
        let (offset, abbreviation) = self.zone.offset_at(self.seconds);
        let local = self.seconds.saturating_add(i64::from(offset));
        let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400) as u32);
        let (year, month, day) = civil_from_days(days);
        Civil {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            weekday: (days + 4).rem_euclid(7) as u32,
            year_day: (days - days_from_civil(year, 1, 1)) as u32 + 1,
            offset,
            abbreviation,
        }
    }

    /// Prints by a layout, as Go's `Time.Format`.
    pub fn format(&self, layout: &str) -> String {
        let civil = self.civil();
        let mut out = String::with_capacity(layout.len() + 8);
        let mut rest = layout;
        while !rest.is_empty() {
            let (literal, found) = next_verb(rest);
            out.push_str(literal);
            let Some((verb, length)) = found else { break };
            rest = &rest[literal.len() + length..];
            self.push_verb(&mut out, &civil, verb);
        }
        out
    }

    fn push_verb(&self, out: &mut String, civil: &Civil, verb: Verb) {
        let hour12 = if civil.hour.is_multiple_of(12) { 12 } else { civil.hour % 12 };
        let text = match verb {
            Verb::LongMonth => MONTHS[civil.month as usize - 1].to_owned(),
            Verb::Month => MONTHS[civil.month as usize - 1][..3].to_owned(),
            Verb::NumMonth => civil.month.to_string(),
            Verb::ZeroMonth => format!("{:02}", civil.month),
            Verb::LongWeekday => WEEKDAYS[civil.weekday as usize].to_owned(),
            Verb::Weekday => WEEKDAYS[civil.weekday as usize][..3].to_owned(),
            Verb::Day => civil.day.to_string(),
            Verb::PaddedDay => format!("{:2}", civil.day),
            Verb::ZeroDay => format!("{:02}", civil.day),
            Verb::PaddedYearDay => format!("{:3}", civil.year_day),
            Verb::ZeroYearDay => format!("{:03}", civil.year_day),
            Verb::Hour => format!("{:02}", civil.hour),
            Verb::Hour12 => hour12.to_string(),
            Verb::ZeroHour12 => format!("{hour12:02}"),
            Verb::Minute => civil.minute.to_string(),
            Verb::ZeroMinute => format!("{:02}", civil.minute),
            Verb::Second => civil.second.to_string(),
            Verb::ZeroSecond => format!("{:02}", civil.second),
            Verb::LongYear => format!("{:04}", civil.year),
            Verb::Year => format!("{:02}", civil.year.rem_euclid(100)),
            Verb::Pm => if civil.hour >= 12 { "PM" } else { "AM" }.to_owned(),
            Verb::LowerPm => if civil.hour >= 12 { "pm" } else { "am" }.to_owned(),
            Verb::Zone => civil.abbreviation.clone(),
            Verb::Offset { z, colon, parts } => offset_text(civil.offset, z, colon, parts),
            Verb::Fraction { digits, trims, separator } => fraction_text(self.nanos, digits, trims, separator),
        };
        out.push_str(&text);
    }

    /// As Go prints a time: `2006-01-02 15:04:05.999999999 -0700 MST`.
    pub fn text(&self) -> String {
        self.format("2006-01-02 15:04:05.999999999 -0700 MST")
    }

    /// RFC 3339 with nanoseconds where they are not zero, as in JSON.
    pub fn rfc3339(&self) -> String {
        self.format("2006-01-02T15:04:05.999999999Z07:00")
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Time {
        Time::from_unix_nanos(i128::from(at.0) * 1_000_000)
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar; out-of-range months and days run over.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year + (day - 1) - 719_468
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    LongMonth,
    Month,
    NumMonth,
    ZeroMonth,
    LongWeekday,
    Weekday,
    Day,
    PaddedDay,
    ZeroDay,
    PaddedYearDay,
    ZeroYearDay,
    Hour,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    Pm,
    LowerPm,
    Zone,
    Offset { z: bool, colon: bool, parts: u8 },
    Fraction { digits: usize, trims: bool, separator: char },
}

/// Longest first where one is the beginning of another.
const VERBS: [(&str, Verb); 37] = [
    ("January", Verb::LongMonth),
    ("Jan", Verb::Month),
    ("Monday", Verb::LongWeekday),
    ("Mon", Verb::Weekday),
    ("MST", Verb::Zone),
    ("01", Verb::ZeroMonth),
    ("002", Verb::ZeroYearDay),
    ("02", Verb::ZeroDay),
    ("03", Verb::ZeroHour12),
    ("04", Verb::ZeroMinute),
    ("05", Verb::ZeroSecond),
    ("06", Verb::Year),
    ("15", Verb::Hour),
    ("1", Verb::NumMonth),
    ("2006", Verb::LongYear),
    ("2", Verb::Day),
    ("__2", Verb::PaddedYearDay),
    ("_2", Verb::PaddedDay),
    ("3", Verb::Hour12),
    ("4", Verb::Minute),
    ("5", Verb::Second),
    ("PM", Verb::Pm),
    ("pm", Verb::LowerPm),
    ("-070000", Verb::Offset { z: false, colon: false, parts: 3 }),
    ("-07:00:00", Verb::Offset { z: false, colon: true, parts: 3 }),
    ("-0700", Verb::Offset { z: false, colon: false, parts: 2 }),
    ("-07:00", Verb::Offset { z: false, colon: true, parts: 2 }),
    ("-07", Verb::Offset { z: false, colon: false, parts: 1 }),
    ("Z070000", Verb::Offset { z: true, colon: false, parts: 3 }),
    ("Z07:00:00", Verb::Offset { z: true, colon: true, parts: 3 }),
    ("Z0700", Verb::Offset { z: true, colon: false, parts: 2 }),
    ("Z07:00", Verb::Offset { z: true, colon: true, parts: 2 }),
    ("Z07", Verb::Offset { z: true, colon: false, parts: 1 }),
    (".0", Verb::Fraction { digits: 1, trims: false, separator: '.' }),
    (".9", Verb::Fraction { digits: 1, trims: true, separator: '.' }),
    (",0", Verb::Fraction { digits: 1, trims: false, separator: ',' }),
    (",9", Verb::Fraction { digits: 1, trims: true, separator: ',' }),
];

/// The literal text before the next verb of a layout, and the verb with its length.
fn next_verb(layout: &str) -> (&str, Option<(Verb, usize)>) {
    for (at, _) in layout.char_indices() {
        if let Some(found) = verb_at(&layout[at..]) {
            return (&layout[..at], Some(found));
        }
    }
    (layout, None)
}

fn verb_at(rest: &str) -> Option<(Verb, usize)> {
    let (text, verb) = VERBS.iter().find(|(text, _)| rest.starts_with(text))?;
    let (verb, length) = match *verb {
        Verb::Fraction { trims, separator, .. } => {
            let digit = if trims { b'9' } else { b'0' };
            let digits = rest.bytes().skip(1).take_while(|byte| *byte == digit).count();
            if rest.as_bytes().get(1 + digits).is_some_and(u8::is_ascii_digit) {
                return None;
            }
            (Verb::Fraction { digits: digits.min(9), trims, separator }, 1 + digits)
        }
        // "Month" is no "Mon", "Janet" is no "Jan".
        Verb::Month | Verb::Weekday if rest.as_bytes().get(3).is_some_and(u8::is_ascii_lowercase) => return None,
        verb => (verb, text.len()),
    };
    Some((verb, length))
}

fn offset_text(offset: i32, z: bool, colon: bool, parts: u8) -> String {
    if z && offset == 0 {
        return "Z".to_owned();
    }
    let (sign, magnitude) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
    let separator = if colon { ":" } else { "" };
    let mut text = format!("{sign}{:02}", magnitude / 3600);
    if parts > 1 {
        text.push_str(&format!("{separator}{:02}", magnitude / 60 % 60));
    }
    if parts > 2 {
        text.push_str(&format!("{separator}{:02}", magnitude % 60));
    }
    text
}

fn fraction_text(nanos: u32, digits: usize, trims: bool, separator: char) -> String {
    let all = format!("{nanos:09}");
    let kept = &all[..digits];
    let kept = if trims { kept.trim_end_matches('0') } else { kept };
    if kept.is_empty() { String::new() } else { format!("{separator}{kept}") }
}

/// Reads a time by a layout, as Go's `time.ParseInLocation` in UTC.
///
/// # Errors
/// Go's text when the value does not fit the layout.
pub fn parse(layout: &str, value: &str) -> Result<Time, String> {
    let fail = |layout_part: &str, rest: &str| {
        Err(format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quoted(value),
            quoted(layout),
            quoted(rest),
            quoted(layout_part)
        ))
    };
    let mut read = Reading { year: 0, month: 1, day: 1, ..Reading::default() };
    let (mut layout_rest, mut rest) = (layout, value);
    loop {
        let (literal, found) = next_verb(layout_rest);
        match rest.strip_prefix(literal) {
            Some(after) => rest = after,
            None => return fail(literal, rest),
        }
        let Some((verb, length)) = found else { break };
        let verb_text = &layout_rest[literal.len()..literal.len() + length];
        layout_rest = &layout_rest[literal.len() + length..];
        match read.take(verb, rest) {
            Some(after) => rest = after,
            None => return fail(verb_text, rest),
        }
    }
    if !rest.is_empty() {
        let extra = quoted(rest);
        return Err(format!("parsing time {}: extra text: {extra}", quoted(value)));
    }
    read.finish().ok_or_else(|| format!("parsing time {}: day out of range", quoted(value)))
}

#[derive(Default)]
struct Reading {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanos: u32,
    pm: Option<bool>,
    offset: i64,
}

impl Reading {
    fn take<'a>(&mut self, verb: Verb, rest: &'a str) -> Option<&'a str> {
        let (target, wide, low, high): (&mut i64, Option<usize>, i64, i64) = match verb {
            Verb::LongYear => (&mut self.year, Some(4), 0, 9999),
            Verb::ZeroMonth => (&mut self.month, Some(2), 1, 12),
            Verb::NumMonth => (&mut self.month, None, 1, 12),
            Verb::ZeroDay => (&mut self.day, Some(2), 1, 31),
            Verb::Day | Verb::PaddedDay => {
                return take_number(rest.trim_start_matches(' '), None, 1, 31, &mut self.day);
            }
            Verb::Hour => (&mut self.hour, Some(2), 0, 23),
            Verb::ZeroHour12 => (&mut self.hour, Some(2), 1, 12),
            Verb::Hour12 => (&mut self.hour, None, 1, 12),
            Verb::ZeroMinute => (&mut self.minute, Some(2), 0, 59),
            Verb::Minute => (&mut self.minute, None, 0, 59),
            Verb::ZeroSecond | Verb::Second => {
                let wide = (verb == Verb::ZeroSecond).then_some(2);
                let after = take_number(rest, wide, 0, 59, &mut self.second)?;
                // A fraction may follow the seconds where the layout has none.
                return Some(self.fraction(after));
            }
            Verb::Year => {
                let after = take_number(rest, Some(2), 0, 99, &mut self.year)?;
                self.year += if self.year >= 69 { 1900 } else { 2000 };
                return Some(after);
            }
            Verb::LongMonth | Verb::Month | Verb::LongWeekday | Verb::Weekday => return self.name(verb, rest),
            Verb::Pm | Verb::LowerPm => {
                let pm = rest.get(..2)?.eq_ignore_ascii_case("pm");
                self.pm = Some(pm);
                return (pm || rest.get(..2)?.eq_ignore_ascii_case("am")).then(|| &rest[2..]);
            }
            Verb::Zone => {
                let letters = rest.bytes().take_while(u8::is_ascii_uppercase).count();
                return (3..=5).contains(&letters).then(|| &rest[letters..]);
            }
            Verb::Offset { z, colon, parts } => return self.take_offset(rest, z, colon, parts),
            Verb::Fraction { .. } => return Some(self.fraction(rest)),
            Verb::PaddedYearDay | Verb::ZeroYearDay => return None,
        };
        take_number(rest, wide, low, high, target)
    }

    fn name<'a>(&mut self, verb: Verb, rest: &'a str) -> Option<&'a str> {
        let names: &[&str] = if matches!(verb, Verb::LongMonth | Verb::Month) { &MONTHS } else { &WEEKDAYS };
        let short = matches!(verb, Verb::Month | Verb::Weekday);
        let found = names.iter().enumerate().find_map(|(index, name)| {
            let name = if short { &name[..3] } else { name };
            rest.get(..name.len()).filter(|head| head.eq_ignore_ascii_case(name)).map(|_| (index, name.len()))
        })?;
        if matches!(verb, Verb::LongMonth | Verb::Month) {
            self.month = found.0 as i64 + 1;
        }
        Some(&rest[found.1..])
    }

    fn fraction<'a>(&mut self, rest: &'a str) -> &'a str {
        let digits = rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
        if !rest.starts_with(['.', ',']) || digits == 0 {
            return rest;
        }
        let text: String = rest[1..=digits].chars().chain("000000000".chars()).take(9).collect();
        self.nanos = text.parse().unwrap_or(0);
        &rest[1 + digits..]
    }

    fn take_offset<'a>(&mut self, rest: &'a str, z: bool, colon: bool, parts: u8) -> Option<&'a str> {
        if z && let Some(after) = rest.strip_prefix('Z') {
            return Some(after);
        }
        let sign = match rest.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let mut after = &rest[1..];
        for (index, unit) in [3600, 60, 1].into_iter().enumerate().take(parts as usize) {
            if index > 0 && colon {
                after = after.strip_prefix(':')?;
            }
            let mut part = 0;
            after = take_number(after, Some(2), 0, 59, &mut part)?;
            self.offset += sign * part * unit;
        }
        Some(after)
    }

    fn finish(self) -> Option<Time> {
        let days = days_from_civil(self.year, self.month, self.day);
        if civil_from_days(days).1 as i64 != self.month {
            return None;
        }
        let hour = match self.pm {
            Some(true) if self.hour < 12 => self.hour + 12,
            Some(false) if self.hour == 12 => 0,
            _ => self.hour,
        };
        let seconds = days * 86_400 + hour * 3600 + self.minute * 60 + self.second - self.offset;
        Some(Time { seconds, nanos: self.nanos, zone: Zone::utc() })
    }
}

fn take_number<'a>(rest: &'a str, wide: Option<usize>, low: i64, high: i64, target: &mut i64) -> Option<&'a str> {
    let digits = rest.bytes().take(wide.unwrap_or(2)).take_while(u8::is_ascii_digit).count();
    if digits == 0 || wide.is_some_and(|wide| digits != wide) {
        return None;
    }
    let value: i64 = rest[..digits].parse().ok()?;
    *target = value;
    (low..=high).contains(&value).then(|| &rest[digits..])
}

/// Go's text of a duration: `1h2m3.5s`, `30m0s`, `1.5µs`.
pub fn duration_text(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |value: u64, unit: u64| {
        let (whole, part) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        let fraction = format!("{part:0width$}");
        let fraction = fraction.trim_end_matches('0');
        if part == 0 || width == 0 { whole.to_string() } else { format!("{whole}.{fraction}") }
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude, 1_000_000)),
        _ => {
            let (minutes, rest) = (magnitude / 60_000_000_000, magnitude % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minute) => format!("{sign}{minute}m{seconds}s"),
                (hour, minute) => format!("{sign}{hour}h{minute}m{seconds}s"),
            }
        }
    }
}
