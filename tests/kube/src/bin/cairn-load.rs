//! The load that the tests on Kubernetes run in a pod: it checks every write that was
//! acknowledged, and tells what became of its requests.
//!
//! It reads its orders from files in /tmp, which `kubectl exec` can make, or in the folder
//! `LOAD_ORDERS`, and answers each with a line of JSON on its output:
//!
//! - `mark-NAME`: what happened since the mark before, see [`Told`];
//! - `stop`: ends the load, reads everything back, and ends with 1 where a promise was
//!   broken.
//!
//! Whatever it is told, it ends after [`LONGEST`].

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_kube_tests::told::{Told, Verdict};
use cairn_process_tests::access::Access;
use cairn_process_tests::cluster::Target;
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::waiting;

const ORDERS: &str = "/tmp";
const LONGEST: Duration = Duration::from_secs(30 * 60);

fn main() -> Result<ExitCode> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let addresses = |name: &str| {
        let value = variable(name)?;
        Ok::<_, anyhow::Error>(value.split(',').map(str::to_owned).collect())
    };
    let target = Target {
        resp: addresses("LOAD_REDIS")?,
        clients: addresses("LOAD_GRPC")?,
        partitions: variable("LOAD_PARTITIONS")?.parse()?,
        access: match env::var("LOAD_AUTHORITIES") {
            Err(_) => None,
            Ok(authorities) => Some(Access {
                authorities: authorities.into(),
                user: variable("LOAD_USER")?,
                password: variable("LOAD_PASSWORD_FILE")?.into(),
                token: variable("LOAD_TOKEN")?,
            }),
        },
    };
    let orders = env::var("LOAD_ORDERS").unwrap_or_else(|_| ORDERS.to_owned());
    let orders = Path::new(&orders);
    let seed = variable("LOAD_SEED")?.parse()?;
    let load = Load::start(&target, Plan::steady(), seed)?;
    load.await_every_partition()?;
    println!("the load runs");

    let until = Instant::now() + LONGEST;
    let mut since = Since::now(&load);
    loop {
        if orders.join("stop").exists() || Instant::now() > until {
            break;
        }
        for mark in marks(orders)? {
            println!("{}", since.told(&load, &mark).line());
            fs::remove_file(orders.join(format!("mark-{mark}")))?;
            since = Since::now(&load);
        }
        waiting::pause();
    }
    let stopped = load.stop()?;
    let broken = stopped.broken(&target)?;
    eprintln!("{stopped}");
    let verdict = Verdict {
        acknowledged: stopped.acknowledged(),
        broken,
    };
    println!("{}", verdict.line());
    let is_good = verdict.acknowledged > 0 && verdict.broken.is_empty();
    Ok(ExitCode::from(u8::from(!is_good)))
}

/// The marks that were asked for.
fn marks(orders: &Path) -> Result<Vec<String>> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(orders)? {
        let name = entry?.file_name();
        if let Some(mark) = name.to_str().and_then(|name| name.strip_prefix("mark-")) {
            marks.push(mark.to_owned());
        }
    }
    Ok(marks)
}

/// How things were at a mark.
struct Since {
    at_ms: u32,
    failed: u64,
    errors: BTreeMap<String, u64>,
}

impl Since {
    fn now(load: &Load) -> Self {
        Self {
            at_ms: load.now_ms(),
            failed: load.unanswered(),
            errors: load.errors(),
        }
    }

    fn told(&self, load: &Load, mark: &str) -> Told {
        let to_ms = load.now_ms();
        let gaps = load.gaps(self.at_ms, to_ms);
        Told {
            mark: mark.to_owned(),
            took_ms: to_ms - self.at_ms,
            failed: load.unanswered() - self.failed,
            errors: load.errors_since(&self.errors),
            longest_gap_ms: gaps.percentile(100),
            median_gap_ms: gaps.percentile(50),
            p99_ms: load
                .latencies()
                .percentile(99, self.at_ms, to_ms)
                .as_secs_f64()
                * 1e3,
            broken: load.broken(),
        }
    }
}
