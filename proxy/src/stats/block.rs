//! Declaring a block: its cells once, their names and how to read them from that.

use super::{Counter, Gauge, Histogram, HistogramSum, Labelled, Lazy, SharedCounter, SharedGauge};

/// A group of cells that can be read one after the other.
pub(super) trait Block {
    /// Calls `visit` with each cell's name and reading, always in the same order.
    fn read(&self, visit: &mut dyn FnMut(Name, Reading));
}

/// A cell's name relative to its block's target, in up to three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// Empty, or the name of the block inside the block (`ssl`).
    pub group: &'static str,
    pub cell: &'static str,
    /// Empty, or what occurred (a status code, a cipher suite).
    pub label: &'a str,
}

/// What a cell holds at this instant.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    Counter(u64),
    Gauge(i64),
    Histogram(HistogramSum),
}

/// A cell or a nested block.
pub(super) trait Cell {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading));
}

/// Declares a block: a struct of cells, and [`Block`] for it.
///
/// A cell's name is its field's, or the literal after `=`.
macro_rules! stat_block {
    (
        $(#[$meta:meta])*
        pub struct $block:ident {
            $( $(#[$cell_meta:meta])* $cell:ident : $kind:ty $(= $name:literal)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $block {
            $( $(#[$cell_meta])* pub $cell: $kind, )*
        }

        impl $crate::stats::block::Block for $block {
            fn read(
                &self,
                visit: &mut dyn FnMut($crate::stats::block::Name, $crate::stats::block::Reading),
            ) {
                $( $crate::stats::block::Cell::read(
                    &self.$cell,
                    stat_block!(@name $cell $($name)?),
                    visit,
                ); )*
            }
        }
    };
    (@name $cell:ident) => { stringify!($cell) };
    (@name $cell:ident $name:literal) => { $name };
}
pub(super) use stat_block;

/// Implements [`Cell`] for a type with a `get`.
macro_rules! plain_cell {
    ($($cell:ty => $reading:ident),*) => {
        $(impl Cell for $cell {
            fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
                visit(Name::cell(name), Reading::$reading(self.get()));
            }
        })*
    };
}
plain_cell!(Counter => Counter, SharedCounter => Counter, Gauge => Gauge, SharedGauge => Gauge);

impl Cell for Histogram {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
        visit(Name::cell(name), Reading::Histogram(self.sum()));
    }
}

impl Cell for Labelled<u16> {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
        for (label, count) in self.iter() {
            let mut digits = itoa::Buffer::new();
            let label = digits.format(label);
            visit(
                Name {
                    group: "",
                    cell: name,
                    label,
                },
                Reading::Counter(count),
            );
        }
    }
}

impl<B: Block> Cell for B {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
        Block::read(self, &mut |inner, reading| {
            visit(
                Name {
                    group: name,
                    ..inner
                },
                reading,
            )
        });
    }
}

impl<B: Block + Default> Cell for Lazy<B> {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
        if let Some(block) = self.get() {
            Cell::read(block, name, visit);
        }
    }
}

impl Cell for Labelled<&'static str> {
    fn read(&self, name: &'static str, visit: &mut dyn FnMut(Name, Reading)) {
        for (label, count) in self.iter() {
            visit(
                Name {
                    group: "",
                    cell: name,
                    label,
                },
                Reading::Counter(count),
            );
        }
    }
}

impl Name<'_> {
    pub(super) fn cell(cell: &'static str) -> Self {
        Self {
            group: "",
            cell,
            label: "",
        }
    }
}
