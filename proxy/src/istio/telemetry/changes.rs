//! What the configuration changes of the standard metrics and labels.

use super::MeshMetric;

/// Changes of all metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    dropped: Vec<MeshMetric>,
    dimensions: Vec<(MeshMetric, Box<str>, Dimension)>,
}

/// What becomes of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    Removed,
    /// Index of the expression that computes it.
    Computed(usize),
}

impl Changes {
    pub fn drop_metric(&mut self, metric: MeshMetric) {
        self.dropped.push(metric);
    }

    /// A later change of the same label counts.
    pub fn change(&mut self, metric: MeshMetric, label: &str, dimension: Dimension) {
        let known = |it: &&mut (MeshMetric, Box<str>, Dimension)| it.0 == metric && *it.1 == *label;
        match self.dimensions.iter_mut().find(known) {
            Some(known) => known.2 = dimension,
            None => self.dimensions.push((metric, label.into(), dimension)),
        }
    }

    pub fn is_dropped(&self, metric: MeshMetric) -> bool {
        self.dropped.contains(&metric)
    }

    /// What becomes of a standard label.
    pub fn of(&self, metric: MeshMetric, label: &str) -> Option<Dimension> {
        let mut all = self.dimensions.iter();
        all.find(|(of, name, _)| *of == metric && **name == *label)
            .map(|(_, _, dimension)| *dimension)
    }

    /// The labels of a metric that are changed, in the order of the configuration.
    pub fn labels(&self, metric: MeshMetric) -> impl Iterator<Item = (&str, Dimension)> {
        let all = self.dimensions.iter();
        all.filter(move |(of, ..)| *of == metric)
            .map(|(_, name, dimension)| (&**name, *dimension))
    }
}
