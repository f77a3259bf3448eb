//! Explores.
use cairn_model::explore::{explore, table};
use cairn_model::world::{Model, Scope};
use clap::Parser;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    #[arg(long, default_value_t = 1)]
    writes: u8,
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    #[arg(long, default_value_t = 0)]
    reconnects: u8,
    #[arg(long, default_value_t = 0)]
    repeats: u8,
    #[arg(long)]
    partial: bool,
    #[arg(long)]
    all: bool,
    #[arg(long, default_value_t = 0)]
    time: u8,
    #[arg(long)]
    joint: bool,
    #[arg(long)]
    back: bool,
    #[arg(long, default_value_t = 9)]
    promotions: u8,
    #[arg(long)]
    hand_over: bool,
    #[arg(long, default_value_t = 20_000_000)]
    most: usize,
}

fn main() {
    let a = Arguments::parse();
    let scope = Scope {
        epochs: a.epochs,
        writes: a.writes,
        crashes: a.crashes,
        reconnects: a.reconnects,
        repeats: a.repeats,
        partial_flushes: a.partial,
        records_to_all: a.all,
        time: a.time,
        joint: a.joint.then_some(if a.back {cairn_model::world::Joint::Backward} else {cairn_model::world::Joint::Forward}),
        promotions: a.promotions,
        hand_over: a.hand_over,
    };
    let model = Model {
        scope,
        mistake: None,
    };
    let e = explore(&model, 2, a.most);
    println!(
        "{} states, {} steps, depth {}, {} nodes, {:.1}s exhausted {}",
        e.states,
        e.steps,
        e.depth,
        e.nodes,
        e.took.as_secs_f64(),
        e.exhausted
    );
    println!("{:?}", table(&e.seen));
    if let Some(c) = e.counterexample {
        println!("{}\n{}", c.what, c.steps.join("\n"));
    }
}
