//! Changes of a [`Path`] as people and scripts write them: `rate=600k,loss=5%` or the same as JSON.

use std::time::Duration;

use serde::Deserialize;

use super::{BurstLoss, Path};

/// What is to change; what is not named stays. In JSON every value is a string but `burst`, for example
/// `{"rate": "600k", "loss": "5%", "burst": {"enter": 0.01, "leave": 0.3, "loss": 1}}`; numbers do where no unit is needed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Bottleneck rate: bits per second, with `k`, `M` or `G`; `none` for no bottleneck.
    #[serde(default)]
    rate: Option<Text>,
    /// Depth of the bottleneck's queue: a duration such as `300ms`.
    #[serde(default)]
    queue: Option<Text>,
    /// Propagation delay one way: a duration.
    #[serde(default)]
    delay: Option<Text>,
    /// Extra delay, uniform from nothing to this: a duration.
    #[serde(default)]
    jitter: Option<Text>,
    /// Share of packets lost: `5%` or `0.05`.
    #[serde(default)]
    loss: Option<Text>,
    /// Share of packets overtaken by later ones: `1%` or `0.01`.
    #[serde(default)]
    reorder: Option<Text>,
    /// Loss in bursts; `null` leaves it, `{"enter": 0, …}` ends it.
    #[serde(default)]
    burst: Option<Burst>,
    /// Seed of every random decision.
    #[serde(default)]
    seed: Option<u64>,
}

/// A value with or without a unit.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Text {
    Number(f64),
    Words(String),
}

/// [`BurstLoss`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Burst {
    enter: f64,
    leave: f64,
    loss: f64,
}

/// A change that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Neither `name=value` pairs nor the JSON of a [`Change`].
    #[error("{0}")]
    Shape(String),
    /// A value without meaning.
    #[error("{field}: {value:?} is not {expected}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

impl Change {
    /// Reads `name=value,…`, for example `rate=3M,delay=20ms,loss=1%`; `burst=ENTER/LEAVE/LOSS` as shares.
    ///
    /// # Errors
    /// When a pair has no `=` or an unknown name.
    pub fn from_pairs(text: &str) -> Result<Self, ParseError> {
        let mut change = Self::default();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let shape = || ParseError::Shape(format!("{pair:?} is not NAME=VALUE"));
            let (name, value) = pair.split_once('=').ok_or_else(shape)?;
            let words = Some(Text::Words(value.trim().to_owned()));
            match name.trim() {
                "rate" => change.rate = words,
                "queue" => change.queue = words,
                "delay" => change.delay = words,
                "jitter" => change.jitter = words,
                "loss" => change.loss = words,
                "reorder" => change.reorder = words,
                "burst" => change.burst = Some(burst(value)?),
                "seed" => change.seed = Some(value.trim().parse().map_err(|_| shape())?),
                other => return Err(ParseError::Shape(format!("unknown setting {other:?}"))),
            }
        }
        Ok(change)
    }

    /// The path with the changes made.
    ///
    /// # Errors
    /// When a value has no meaning; nothing is changed then.
    pub fn apply(&self, path: &Path) -> Result<Path, ParseError> {
        let mut changed = path.clone();
        if let Some(rate) = &self.rate {
            changed.rate_bps = rate.rate()?;
        }
        if let Some(queue) = &self.queue {
            let depth = queue.duration("queue")?;
            changed.queue_ms = u32::try_from(depth.as_millis()).unwrap_or(u32::MAX);
        }
        if let Some(delay) = &self.delay {
            changed.delay = delay.duration("delay")?;
        }
        if let Some(jitter) = &self.jitter {
            changed.jitter = jitter.duration("jitter")?;
        }
        if let Some(loss) = &self.loss {
            changed.loss = loss.share("loss")?;
        }
        if let Some(reorder) = &self.reorder {
            changed.reorder = reorder.share("reorder")?;
        }
        if let Some(burst) = self.burst {
            changed.burst_loss = burst.checked()?;
        }
        changed.seed = self.seed.unwrap_or(changed.seed);
        Ok(changed)
    }
}

fn burst(text: &str) -> Result<Burst, ParseError> {
    let shares: Vec<f64> = text
        .split('/')
        .map(|share| Text::Words(share.to_owned()).share("burst"))
        .collect::<Result<_, _>>()?;
    match shares.as_slice() {
        &[enter, leave, loss] => Ok(Burst { enter, leave, loss }),
        _ => Err(ParseError::Shape(format!(
            "burst: {text:?} is not ENTER/LEAVE/LOSS"
        ))),
    }
}

impl Burst {
    fn checked(self) -> Result<Option<BurstLoss>, ParseError> {
        let share = |value| Text::Number(value).share("burst");
        let burst_loss = BurstLoss {
            enter: share(self.enter)?,
            leave: share(self.leave)?,
            loss: share(self.loss)?,
        };
        Ok((self.enter > 0.0).then_some(burst_loss))
    }
}

impl Text {
    /// Bits per second; at least 1.
    fn rate(&self) -> Result<Option<u64>, ParseError> {
        const UNITS: [(&str, f64); 4] = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("", 1.0)];
        if matches!(self, Self::Words(words) if words == "none") {
            return Ok(None);
        }
        let bps = self.number(&UNITS).filter(|bps| (1.0..=1e12).contains(bps));
        let bps = bps.ok_or_else(|| self.error("rate", "a rate such as 600k, 3M or none"))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 1 to 1e12"
        )]
        Ok(Some(bps as u64))
    }

    /// At most an hour.
    fn duration(&self, field: &'static str) -> Result<Duration, ParseError> {
        const UNITS: [(&str, f64); 3] = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
        let seconds = self.number(&UNITS).filter(|s| (0.0..=3600.0).contains(s));
        let seconds =
            seconds.ok_or_else(|| self.error(field, "a duration such as 20ms, 800us or 1.5s"))?;
        Ok(Duration::from_secs_f64(seconds))
    }

    fn share(&self, field: &'static str) -> Result<f64, ParseError> {
        const UNITS: [(&str, f64); 2] = [("%", 0.01), ("", 1.0)];
        let share = self.number(&UNITS).filter(|s| (0.0..=1.0).contains(s));
        share.ok_or_else(|| self.error(field, "a share such as 5% or 0.05"))
    }

    /// The number times what its unit stands for. A bare number takes the unit `""`, if there is one.
    fn number(&self, units: &[(&str, f64)]) -> Option<f64> {
        match self {
            Self::Number(number) => {
                let bare = units.iter().find(|(unit, _)| unit.is_empty());
                bare.map(|(_, scale)| number * scale)
                    .or_else(|| (*number == 0.0).then_some(0.0))
            }
            Self::Words(words) => units.iter().find_map(|(unit, scale)| {
                let number: f64 = words.trim().strip_suffix(unit)?.trim().parse().ok()?;
                Some(number * scale)
            }),
        }
    }

    fn error(&self, field: &'static str, expected: &'static str) -> ParseError {
        let value = match self {
            Self::Number(number) => number.to_string(),
            Self::Words(words) => words.clone(),
        };
        ParseError::Value {
            field,
            value,
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(json: &str) -> Result<Path, String> {
        let change: Change = serde_json::from_str(json).map_err(|error| error.to_string())?;
        change
            .apply(&Path::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_and_json_say_the_same() {
        let pairs = Change::from_pairs("rate=600k, delay=20ms,jitter=500us,loss=5%,queue=0.1s");
        let pairs = pairs.unwrap().apply(&Path::default()).unwrap();
        let json = r#"{"rate":"600k","delay":"20ms","jitter":"500us","loss":0.05,"queue":"100ms"}"#;
        assert_eq!(applied(json).unwrap(), pairs);
        assert_eq!(pairs.rate_bps, Some(600_000));
        assert_eq!(pairs.delay, Duration::from_millis(20));
        assert_eq!(pairs.queue_ms, 100);
    }

    #[test]
    fn what_is_not_named_stays_and_a_bottleneck_can_go() {
        let narrow = applied(r#"{"rate":3000000,"loss":"2%"}"#).unwrap();
        let wide = Change::from_pairs("rate=none").unwrap();
        let wide = wide.apply(&narrow).unwrap();
        assert_eq!((wide.rate_bps, wide.loss), (None, 0.02));
    }

    #[test]
    fn bursts_begin_and_end() {
        let bursts = Change::from_pairs("burst=1%/0.25/1").unwrap();
        let path = bursts.apply(&Path::default()).unwrap();
        assert_eq!(path.burst_loss.map(|burst| burst.leave), Some(0.25));
        let json = r#"{"burst":{"enter":0,"leave":1,"loss":1}}"#;
        let end: Change = serde_json::from_str(json).unwrap();
        assert_eq!(end.apply(&path).unwrap().burst_loss, None);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (json, word) in [
            (r#"{"loss":"120%"}"#, "loss"),
            (r#"{"delay":20}"#, "delay"),
            (r#"{"delay":"-1ms"}"#, "delay"),
            (r#"{"rate":"fast"}"#, "rate"),
            (r#"{"rate":0}"#, "rate"),
            (r#"{"speed":"1M"}"#, "speed"),
            (r#"{"burst":{"enter":2,"leave":1,"loss":1}}"#, "burst"),
        ] {
            let error = applied(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
        for pairs in ["rate", "speed=1", "burst=1/2", "seed=x"] {
            assert!(Change::from_pairs(pairs).is_err(), "{pairs}");
        }
    }
}
