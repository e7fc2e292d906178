//! Points on the globe and the distance between them.

use serde::{Deserialize, Serialize};

/// Mean Earth radius in metres (IUGG R1): half a percent at most off the ellipsoid.
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A point outside the globe's coordinates.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum Error {
    /// Latitude outside −90…90 degrees, or not a number.
    #[error("latitude {0} is not within -90..=90 degrees")]
    Latitude(f64),
    /// Longitude outside −180…180 degrees, or not a number.
    #[error("longitude {0} is not within -180..=180 degrees")]
    Longitude(f64),
}

/// A point on the globe, in degrees (WGS 84): north and east are positive.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Degrees", into = "Degrees")]
pub struct Position {
    latitude: f64,
    longitude: f64,
}

/// `Position` before its range is checked.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Degrees {
    latitude: f64,
    longitude: f64,
}

impl TryFrom<Degrees> for Position {
    type Error = Error;

    fn try_from(degrees: Degrees) -> Result<Self, Error> {
        Self::new(degrees.latitude, degrees.longitude)
    }
}

impl From<Position> for Degrees {
    fn from(position: Position) -> Self {
        Self {
            latitude: position.latitude,
            longitude: position.longitude,
        }
    }
}

impl Position {
    /// A point by latitude and longitude in degrees.
    ///
    /// # Errors
    /// When one of them is out of range or not a number.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, Error> {
        if !(-90.0..=90.0).contains(&latitude) {
            return Err(Error::Latitude(latitude));
        }
        if !(-180.0..=180.0).contains(&longitude) {
            return Err(Error::Longitude(longitude));
        }
        Ok(Self {
            latitude,
            longitude,
        })
    }

    /// For the catalogue, whose rows a test checks.
    pub(crate) const fn known(latitude: f64, longitude: f64) -> Self {
        Self {
            latitude,
            longitude,
        }
    }

    /// Degrees north of the equator, −90…90.
    pub fn latitude(self) -> f64 {
        self.latitude
    }

    /// Degrees east of Greenwich, −180…180.
    pub fn longitude(self) -> f64 {
        self.longitude
    }

    /// The point in the middle of some points: their mean as vectors from the Earth's centre. `None` without points, or when
    /// they cancel out. A single point is its own middle.
    pub fn middle(points: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut points = points.into_iter().peekable();
        let first = *points.peek()?;
        let (mut x, mut y, mut z, mut count) = (0.0_f64, 0.0_f64, 0.0_f64, 0_u32);
        for point in points {
            let (latitude, longitude) = (point.latitude.to_radians(), point.longitude.to_radians());
            x += latitude.cos() * longitude.cos();
            y += latitude.cos() * longitude.sin();
            z += latitude.sin();
            count += 1;
        }
        if count == 1 {
            return Some(first);
        }
        let level = x.hypot(y);
        if level.hypot(z) < 1e-9 {
            return None;
        }
        Self::new(z.atan2(level).to_degrees(), y.atan2(x).to_degrees()).ok()
    }

    /// Great-circle distance in metres, by the haversine formula (well-conditioned for small distances).
    pub fn distance_m(self, other: Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_latitude = (to - from) / 2.0;
        let half_longitude = (other.longitude - self.longitude).to_radians() / 2.0;
        let chord =
            half_latitude.sin().powi(2) + from.cos() * to.cos() * half_longitude.sin().powi(2);
        // Rounding may lift antipodes a hair above 1.
        2.0 * EARTH_RADIUS_M * chord.sqrt().min(1.0).asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(latitude: f64, longitude: f64) -> Position {
        Position::new(latitude, longitude).expect("in range")
    }

    #[test]
    fn a_quarter_and_a_half_of_the_globe() {
        let quarter = EARTH_RADIUS_M * std::f64::consts::FRAC_PI_2;
        assert!((position(0.0, 0.0).distance_m(position(90.0, 0.0)) - quarter).abs() < 1.0);
        assert!((position(0.0, 0.0).distance_m(position(0.0, 180.0)) - 2.0 * quarter).abs() < 1.0);
        assert!(
            (position(40.0, -4.0).distance_m(position(-40.0, 176.0)) - 2.0 * quarter).abs() < 1.0
        );
    }

    #[test]
    fn the_date_line_is_no_border() {
        let across = position(0.0, 179.5).distance_m(position(0.0, -179.5));
        assert!((across - 111_195.0).abs() < 10.0, "{across}");
    }

    #[test]
    fn the_middle_of_points() {
        assert_eq!(Position::middle([]), None);
        let zurich = position(47.38, 8.54);
        assert_eq!(Position::middle([zurich]), Some(zurich));
        let middle = Position::middle([position(0.0, 170.0), position(0.0, -170.0)]);
        assert!(middle.is_some_and(|m| m.distance_m(position(0.0, 180.0)) < 1.0));
        assert_eq!(
            Position::middle([position(0.0, 0.0), position(0.0, 180.0)]),
            None
        );
    }

    #[test]
    fn what_is_not_on_the_globe_is_refused() {
        assert_eq!(Position::new(90.1, 0.0), Err(Error::Latitude(90.1)));
        assert_eq!(Position::new(0.0, -181.0), Err(Error::Longitude(-181.0)));
        assert!(Position::new(f64::NAN, 0.0).is_err());
        assert!(Position::new(0.0, f64::INFINITY).is_err());
    }
}
