//! `cairn plan`: what a cluster needs for a load, and whether its nodes have it. It asks nobody:
//! everything comes from flags, and from what nodes were measured to do ([`measured`]).

mod measured;
mod model;
mod size;

use self::model::{Costs, Exceeded, Limits, Node, Plan, Situation, Wanted};
use self::size::decimal;
use crate::failure::{Failure, Kind};
use crate::output::{self, Format};

/// What is wanted, and what a node has.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Bytes of keys and values, once: 1TB is 10^12, 1TiB is 2^40
    #[arg(long, default_value = "1TB", value_parser = size::parse)]
    data: f64,
    /// How many replicas each partition has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    replication_factor: u8,
    /// Operations per second on average, of all clients together
    #[arg(long, default_value_t = 20_000.0, value_parser = positive)]
    ops: f64,
    /// Percent of the operations that read
    #[arg(long, default_value_t = 50.0, value_parser = percent)]
    reads: f64,
    /// Bytes per key
    #[arg(long, default_value = "32", value_parser = size::parse)]
    key_size: f64,
    /// Bytes per value
    #[arg(long, default_value = "1KiB", value_parser = size::parse)]
    value_size: f64,
    /// How many data nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    data_nodes: u32,
    /// How much more the peak is than the average
    #[arg(long, default_value_t = 2.0, value_parser = at_least_one)]
    peak: f64,
    /// How many data nodes may be gone while the peak is carried
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    nodes_lost: u32,
    /// How much busier and fuller than the mean the busiest node is
    #[arg(long, default_value_t = 1.2, value_parser = at_least_one)]
    skew: f64,
    /// Percent of processors, disk, network and volume that may be used at most
    #[arg(long, default_value_t = 75.0, value_parser = fill)]
    fill: f64,
    /// Processors of a node
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    node_cpus: f64,
    /// Flushes of a node's disk in a second, one after the other
    #[arg(long, default_value_t = measured::FLUSHES_PER_SECOND, value_parser = positive)]
    node_flushes: f64,
    /// Bytes that a node's disk writes in a second
    #[arg(long, default_value_t = Size(measured::DISK_BYTES_PER_SECOND), value_parser = sized)]
    node_disk: Size,
    /// Bytes that a node's network carries in a second, each way
    #[arg(long, default_value_t = Size(measured::NETWORK_BYTES_PER_SECOND), value_parser = sized)]
    node_network: Size,
    /// Memory of a node, to be held against what it needs [default: only told]
    #[arg(long, value_parser = sized)]
    node_memory: Option<Size>,
    /// The volume of a node, to be held against what it needs [default: only told]
    #[arg(long, value_parser = sized)]
    node_volume: Option<Size>,
    /// Bytes of a copy that a node takes in, in a second, while it serves clients
    #[arg(long, default_value_t = Size(measured::COPY_BYTES_PER_SECOND), value_parser = sized)]
    copy_rate: Size,
    #[command(flatten)]
    costs: CostArgs,
}

/// What operations and bytes cost: as they were measured, see docs/capacity.md.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What was measured (docs/capacity.md)")]
struct CostArgs {
    /// Microseconds of the primary's processors for a write
    #[arg(long, default_value_t = measured::LEAD_CPU_US, value_parser = not_negative)]
    lead_cpu_us: f64,
    /// Microseconds of each other replica's for it
    #[arg(long, default_value_t = measured::FOLLOW_CPU_US, value_parser = not_negative)]
    follow_cpu_us: f64,
    /// Microseconds for a strong read
    #[arg(long, default_value_t = measured::READ_CPU_US, value_parser = not_negative)]
    read_cpu_us: f64,
    /// Microseconds for each KiB of a value, on top
    #[arg(long, default_value_t = measured::KIB_CPU_US, value_parser = not_negative)]
    kib_cpu_us: f64,
    /// Bytes to disk of a replica for each byte of key and value
    #[arg(long, default_value_t = measured::WRITE_AMPLIFICATION, value_parser = at_least_one)]
    write_amplification: f64,
    /// Entries that one flush may cover
    #[arg(long, default_value_t = measured::ENTRIES_PER_FLUSH, value_parser = at_least_one)]
    entries_per_flush: f64,
    /// Bytes of a replica's store for each byte of key and value
    #[arg(long, default_value_t = measured::SPACE_AMPLIFICATION, value_parser = positive)]
    space_amplification: f64,
    /// Bytes on disk for each key beside it and its value
    #[arg(long, default_value_t = Size(measured::KEY_OVERHEAD_BYTES), value_parser = sized)]
    key_overhead: Size,
    /// Bytes of memory for each key on the node
    #[arg(long, default_value_t = Size(measured::KEY_MEMORY_BYTES), value_parser = sized)]
    key_memory: Size,
    /// Bytes of memory beside that
    #[arg(long, default_value_t = Size(measured::BASE_MEMORY_BYTES), value_parser = sized)]
    base_memory: Size,
    /// Bytes on disk beside the state: the log, journals, room that is kept
    #[arg(long, default_value_t = Size(measured::BASE_DISK_BYTES), value_parser = sized)]
    base_disk: Size,
}

/// Bytes that help shows in a unit that people read.
#[derive(Clone, Copy, Debug)]
struct Size(f64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&decimal(self.0).replace(' ', ""))
    }
}

fn sized(text: &str) -> Result<Size, String> {
    size::parse(text).map(Size)
}

fn number(text: &str, what: &str, holds: impl Fn(&f64) -> bool) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|figure| figure.is_finite() && *figure <= 1e15 && holds(figure))
        .ok_or_else(|| format!("give {what}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |figure| *figure > 0.0)
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number of at least 0", |figure| *figure >= 0.0)
}

fn at_least_one(text: &str) -> Result<f64, String> {
    number(text, "a number of at least 1", |figure| *figure >= 1.0)
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, "percent from 0 to 100", |figure| {
        (0.0..=100.0).contains(figure)
    })
}

fn fill(text: &str) -> Result<f64, String> {
    number(text, "percent from 1 to 100", |figure| {
        (1.0..=100.0).contains(figure)
    })
}

impl PlanArgs {
    fn plan(&self) -> Plan {
        let wanted = Wanted {
            logical_bytes: self.data,
            replication_factor: self.replication_factor,
            operations_per_second: self.ops,
            read_share: self.reads / 100.0,
            key_bytes: self.key_size,
            value_bytes: self.value_size,
            data_nodes: self.data_nodes,
            peak: self.peak,
            nodes_lost: self.nodes_lost,
            skew: self.skew,
        };
        let limits = Limits {
            processors: self.node_cpus,
            flushes_per_second: self.node_flushes,
            disk_bytes_per_second: self.node_disk.0,
            network_bytes_per_second: self.node_network.0,
            memory_bytes: self.node_memory.map(|size| size.0),
            volume_bytes: self.node_volume.map(|size| size.0),
            copy_bytes_per_second: self.copy_rate.0.max(1.0),
            fill: self.fill / 100.0,
        };
        let costs = Costs {
            lead_cpu_us: self.costs.lead_cpu_us,
            follow_cpu_us: self.costs.follow_cpu_us,
            read_cpu_us: self.costs.read_cpu_us,
            kib_cpu_us: self.costs.kib_cpu_us,
            write_amplification: self.costs.write_amplification,
            entries_per_flush: self.costs.entries_per_flush,
            space_amplification: self.costs.space_amplification,
            key_overhead_bytes: self.costs.key_overhead.0,
            key_memory_bytes: self.costs.key_memory.0,
            base_memory_bytes: self.costs.base_memory.0,
            base_disk_bytes: self.costs.base_disk.0,
        };
        model::plan(wanted, costs, limits)
    }
}

/// Works it out and prints it; a cluster that would not do is a condition that does not hold.
pub(crate) fn run(args: &PlanArgs, format: Format) -> Result<(), Failure> {
    let plan = args.plan();
    match format {
        Format::Json => output::json(&plan)?,
        Format::Table => output::text(&text(&plan))?,
    }
    if plan.fits {
        return Ok(());
    }
    let failure = Failure::new(Kind::NotFound, "such a cluster would not do");
    Err(match plan.data_nodes_needed {
        Some(nodes) => failure.with_remedy(format!(
            "{nodes} data nodes like these would; or larger ones, see `cairn plan --help`"
        )),
        None => failure.with_remedy("No number of such nodes would: they have to be larger"),
    })
}

fn figure(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// A quantity of the busiest node in the three situations, with what the node has of it.
type Row = (&'static str, fn(&Node) -> String, Option<String>);

fn text(plan: &Plan) -> String {
    let wanted = &plan.wanted;
    let limits = &plan.limits;
    let filled = |has: f64| has * limits.fill;
    let rate = |bytes: f64| format!("{}/s", decimal(bytes));
    let rows: [Row; 11] = [
        (
            "operations/s",
            |node| figure(node.operations_per_second),
            None,
        ),
        ("reads/s", |node| figure(node.reads_per_second), None),
        ("writes/s led", |node| figure(node.writes_per_second), None),
        (
            "log entries/s",
            |node| figure(node.entries_per_second),
            None,
        ),
        (
            "processors",
            |node| figure(node.processors),
            Some(figure(filled(limits.processors))),
        ),
        (
            "flushes/s",
            |node| figure(node.flushes_per_second),
            Some(figure(filled(limits.flushes_per_second))),
        ),
        (
            "disk writes",
            |node| format!("{}/s", decimal(node.disk_bytes_per_second)),
            Some(rate(filled(limits.disk_bytes_per_second))),
        ),
        (
            "network in",
            |node| format!("{}/s", decimal(node.network_in_bytes_per_second)),
            Some(rate(filled(limits.network_bytes_per_second))),
        ),
        (
            "network out",
            |node| format!("{}/s", decimal(node.network_out_bytes_per_second)),
            Some(rate(filled(limits.network_bytes_per_second))),
        ),
        (
            "stored",
            |node| decimal(node.stored_bytes),
            limits.volume_bytes.map(|bytes| decimal(filled(bytes))),
        ),
        (
            "memory",
            |node| decimal(node.memory_bytes),
            limits.memory_bytes.map(decimal),
        ),
    ];
    let lost = match wanted.nodes_lost {
        1 => "1 NODE LOST".to_owned(),
        lost => format!("{lost} NODES LOST"),
    };
    let mut text = format!(
        "{} of keys and values, {} with {} replicas; {} operations/s, {:.0} % reads, values of \
         {}; {} data nodes\n\n",
        decimal(wanted.logical_bytes),
        decimal(plan.replicated_bytes),
        wanted.replication_factor,
        figure(wanted.operations_per_second),
        wanted.read_share * 100.0,
        decimal(wanted.value_bytes),
        wanted.data_nodes
    );
    text.push_str(&output::render_table(
        &["THE BUSIEST NODE", "AVERAGE", "PEAK", &lost, "MAY USE"],
        rows.into_iter().map(|(name, of, may)| {
            vec![
                name.to_owned(),
                of(&plan.average),
                of(&plan.peak),
                of(&plan.peak_and_nodes_lost),
                may.unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    ));
    text.push_str(&format!(
        "\nask for: volumes of {}, {} of memory, {} processors a node\n",
        decimal(plan.volume_bytes),
        decimal(plan.memory_bytes),
        figure(limits.processors)
    ));
    if wanted.nodes_lost > 0 {
        text.push_str(&format!(
            "what was lost is made anew in {:.1} h at {}/s a node\n",
            plan.copy_seconds / 3600.0,
            decimal(limits.copy_bytes_per_second)
        ));
    }
    for note in &plan.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push_str(&verdict(plan));
    text
}

fn verdict(plan: &Plan) -> String {
    let mut text = String::new();
    for Exceeded {
        what,
        situation,
        ratio,
    } in &plan.exceeded
    {
        let when = match situation {
            Situation::Average => "on average",
            Situation::Peak => "at the peak",
            Situation::PeakAndNodesLost => "at the peak with nodes lost",
        };
        text.push_str(&format!(
            "exceeded: {what} {when}, {:.0} % of what may be used\n",
            ratio * 100.0
        ));
    }
    if plan.fits {
        text.push_str("it fits");
        if let Some(nodes) = plan.data_nodes_needed {
            text.push_str(&format!("; the fewest data nodes that would do: {nodes}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PlanArgs,
    }

    fn parse(words: &[&str]) -> Result<PlanArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"plan").chain(words)).map(|cli| cli.args)
    }

    #[test]
    fn the_defaults_are_a_terabyte_at_twenty_thousand_a_second() {
        let plan = parse(&[]).expect("the defaults are valid").plan();
        assert!((plan.replicated_bytes - 3e12).abs() < 1.0);
        let even = parse(&["--skew", "1"]).expect("valid").plan();
        assert!((even.average.operations_per_second - 4_000.0).abs() < 1e-6);
        assert!((even.peak.operations_per_second - 8_000.0).abs() < 1e-6);
        assert!((even.peak_and_nodes_lost.operations_per_second - 10_000.0).abs() < 1e-6);
        assert_eq!(plan.costs, measured::COSTS);
    }

    #[test]
    fn what_is_printed_says_what_to_ask_for_and_what_is_exceeded() {
        let of = |words: &[&str]| text(&parse(words).expect("valid").plan());
        let fits = of(&["--node-cpus", "16", "--node-disk", "1GB"]);
        for words in [
            "ask for: volumes of",
            "it fits",
            "1 NODE LOST",
            "3 TB with 3 replicas",
        ] {
            assert!(fits.contains(words), "{words}: {fits}");
        }
        let small = of(&["--node-volume", "100GB"]);
        assert!(small.contains("exceeded: volume on average"), "{small}");
        assert!(!small.contains("it fits"), "{small}");
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["--data", "much"][..],
            &["--reads", "101"],
            &["--peak", "0.5"],
            &["--fill", "0"],
            &["--node-cpus", "0"],
            &["--replication-factor", "8"],
            &["--ops", "-1"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_documented_example_is_what_is_printed() {
        let page = include_str!("../../../docs/capacity.md");
        let printed = text(&parse(&[]).expect("the defaults are valid").plan());
        let example = format!("$ cairn plan\n{printed}```");
        assert!(
            page.contains(&example),
            "docs/capacity.md should hold this example:\n{example}"
        );
    }

    #[test]
    fn the_documented_figures_are_those_of_the_code() {
        let page = include_str!("../../../docs/capacity.md");
        let table = measured::markdown();
        assert!(
            page.contains(&table),
            "docs/capacity.md should hold this table:\n{table}"
        );
    }
}
