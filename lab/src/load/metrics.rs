//! What an edge says about itself on `/metrics` (Prometheus text format 0.0.4).

/// Readings of one or several edges, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Reading {
    /// CPU time used since the start, seconds.
    pub(super) cpu_seconds: f64,
    /// Resident memory, bytes.
    pub(super) resident_bytes: f64,
    /// RTP packets forwarded since the start; `None` when the edge does not say.
    pub(super) forwarded: Option<f64>,
}

impl Reading {
    /// Reads the admin addresses one after the other.
    pub(super) async fn of(admins: &[String]) -> Result<Self, reqwest::Error> {
        let mut total = Self::default();
        for admin in admins {
            let url = format!("{}/metrics", admin.trim_end_matches('/'));
            let text = reqwest::get(url).await?.error_for_status()?.text().await?;
            total.add(&text);
        }
        Ok(total)
    }

    fn add(&mut self, text: &str) {
        self.cpu_seconds += sum(text, "process_cpu_seconds_total").unwrap_or(0.0);
        self.resident_bytes += sum(text, "process_resident_memory_bytes").unwrap_or(0.0);
        if let Some(forwarded) = sum(text, "antipode_edge_rtp_forwarded_packets_total") {
            *self.forwarded.get_or_insert(0.0) += forwarded;
        }
    }
}

/// Sum of a metric's samples over its labels; `None` without any.
fn sum(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| match rest.as_bytes().first() {
            Some(b' ') => Some(rest),
            // No label value of ours contains a brace.
            Some(b'{') => rest.split_once('}').map(|(_, value)| value),
            _ => None,
        })
        .filter_map(|value| value.split_ascii_whitespace().next()?.parse::<f64>().ok())
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels() {
        let text = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5\n\
                    process_resident_memory_bytes 4096\n\
                    antipode_edge_rtp_forwarded_packets_total{kind=\"audio\"} 10\n\
                    antipode_edge_rtp_forwarded_packets_total{kind=\"video\"} 32 1700000000\n\
                    antipode_edge_rtp_forwarded_packets_total_created 7\n";
        let mut reading = Reading::default();
        reading.add(text);
        reading.add("process_cpu_seconds_total 0.5\n");
        assert_eq!(
            reading,
            Reading {
                cpu_seconds: 2.0,
                resident_bytes: 4096.0,
                forwarded: Some(42.0)
            }
        );
        assert_eq!(sum("", "x"), None);
    }
}
