//! Items as metrics, for the textfile collector of a Prometheus node exporter.
//!
//! Source: Prometheus, "Exposition formats", text format 0.0.4.

use std::fmt;

/// A metric that can go up and down (a gauge), with one value for each set of labels.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

impl Gauge {
    /// A metric without values. `name` includes the unit, and `help` is one sentence.
    pub fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, samples: Vec::new() }
    }

    /// Adds a value with its labels.
    pub fn set<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: u64) {
        let labels = labels.map(|(name, text)| (name, text.to_owned())).into();
        self.samples.push(Sample { labels, value });
    }
}

impl fmt::Display for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, help, samples } = self;
        writeln!(f, "# HELP {name} {}", help.replace('\\', r"\\").replace('\n', r"\n"))?;
        writeln!(f, "# TYPE {name} gauge")?;
        for sample in samples {
            let labels = sample.labels.iter().map(|(label, text)| {
                format!(
                    "{label}=\"{}\"",
                    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
                )
            });
            writeln!(f, "{name}{{{}}} {}", labels.collect::<Vec<_>>().join(","), sample.value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_escape_line_breaks_and_quotes() {
        let mut gauge = Gauge::new("tdx_x_bytes", "Size\\ of\nit.");
        gauge.set([("name", "a\"b\\c\nd"), ("uuid", "")], 7);
        assert_eq!(
            gauge.to_string(),
            "# HELP tdx_x_bytes Size\\\\ of\\nit.\n# TYPE tdx_x_bytes gauge\n\
             tdx_x_bytes{name=\"a\\\"b\\\\c\\nd\",uuid=\"\"} 7\n"
        );
    }
}
