//! Time zones, by their names in the IANA database, which is built in: a container without one gives the same times.

use std::fmt;

use jiff::civil;
use jiff::tz::TimeZone;
use thiserror::Error;

/// A name that is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown time zone {0}")]
pub struct UnknownZone(String);

/// A time zone. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Zone {
        Zone(TimeZone::UTC)
    }

    /// The zone of a name; the empty name and `UTC` are [`Zone::utc`].
    ///
    /// # Errors
    /// When the database has no such zone; the text is Go's.
    pub fn named(name: &str) -> Result<Zone, UnknownZone> {
        if matches!(name, "" | "UTC") {
            return Ok(Zone::utc());
        }
        TimeZone::get(name).map(Zone).map_err(|_| UnknownZone(name.to_owned()))
    }

    /// Seconds east of UTC at an instant, and the abbreviation in force (`CET`).
    pub fn offset_at(&self, unix_seconds: i64) -> (i32, String) {
        match jiff::Timestamp::from_second(unix_seconds) {
            Ok(instant) => {
                let info = self.0.to_offset_info(instant);
                (info.offset().seconds(), info.abbreviation().to_owned())
            }
            Err(_) => (0, "UTC".to_owned()),
        }
    }

    /// The instant of a wall-clock reading `seconds` after 1970-01-01 00:00 of this zone, as if it were UTC. A reading
    /// that occurs twice is the earlier instant; one that is skipped is moved on by the gap.
    pub fn to_unix_seconds(&self, seconds: i64) -> i64 {
        let reading = jiff::Timestamp::from_second(seconds).ok().map(|instant| TimeZone::UTC.to_datetime(instant));
        let instant =
            reading.and_then(|reading: civil::DateTime| self.0.to_ambiguous_timestamp(reading).compatible().ok());
        instant.map_or(seconds, |instant| instant.as_second())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_know_their_summer() {
        let paris = Zone::named("Europe/Paris").unwrap();
        assert_eq!(paris.offset_at(1_704_096_930), (3600, "CET".to_owned()));
        assert_eq!(paris.offset_at(1_720_000_000), (7200, "CEST".to_owned()));
        assert_eq!(paris.to_unix_seconds(1_704_100_530), 1_704_096_930);
        assert_eq!(Zone::named("Mars/Olympus").unwrap_err().to_string(), "unknown time zone Mars/Olympus");
    }
}
