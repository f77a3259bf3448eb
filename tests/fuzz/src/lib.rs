//! A driver for fuzz targets that needs no more than a stable compiler.
//!
//! A target is a test beside the code that it tries: it gives [`run`] its seeds, which
//! are inputs that mean something, and a check that must not panic whatever it is given.
//! The driver runs the seeds, then the target's files in `corpus/`, then mutations of all
//! of them: bits, bytes and runs are changed, taken out, doubled and spliced.
//!
//! By default a fixed number of mutations is tried from a fixed seed, so that a run of
//! the tests is bounded and repeats itself. With `CAIRN_FUZZ_SECONDS` each target runs
//! for so long, from a seed of its own that is printed; `CAIRN_FUZZ_SEED` repeats one.
//!
//! An input that makes a check panic is written to `CAIRN_FUZZ_OUT` (the system's
//! temporary directory by default). Put into `corpus/<target>/` it is tried for good.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Mutations of a bounded run.
const MUTATIONS: u64 = 20_000;
/// The longest input, in bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Inputs that are mutated further, at most: new ones take the places of others.
const POOL_MAX: usize = 512;

/// A generator of numbers that repeats itself (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap_or(0)
    }
}

/// How long a target runs.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Mutations(u64),
    Until(Instant),
}

impl Bound {
    fn allows(self, tried: u64) -> bool {
        match self {
            Self::Mutations(most) => tried < most,
            Self::Until(end) => Instant::now() < end,
        }
    }
}

/// Runs a target. `weight` divides the mutations of a bounded run: 1 for checks that take
/// microseconds, more for slower ones.
///
/// # Panics
/// As `check` does, once the input was written to a file.
pub fn run(target: &str, weight: u64, seeds: Vec<Vec<u8>>, check: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds: Option<u64> = number("CAIRN_FUZZ_SECONDS");
    let seed = number("CAIRN_FUZZ_SEED").unwrap_or_else(|| {
        seconds.map_or(1, |_| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(1, |since| since.as_nanos() as u64)
        })
    });
    let run = Run {
        target,
        bound: seconds.map_or(Bound::Mutations(MUTATIONS / weight.max(1)), |seconds| {
            Bound::Until(Instant::now() + Duration::from_secs(seconds))
        }),
        seed,
        out: std::env::var_os("CAIRN_FUZZ_OUT").map_or_else(std::env::temp_dir, PathBuf::from),
    };
    run.drive(seeds, &check);
}

/// One run of a target.
#[derive(Debug)]
struct Run<'a> {
    target: &'a str,
    bound: Bound,
    seed: u64,
    out: PathBuf,
}

impl Run<'_> {
    fn drive(&self, seeds: Vec<Vec<u8>>, check: &impl Fn(&[u8])) {
        let (target, seed) = (self.target, self.seed);
        let mut pool = seeds;
        pool.extend(corpus(target));
        assert!(!pool.is_empty(), "{target} has no seeds");
        for input in &pool {
            self.try_one(input, check);
        }
        let mut random = Random::new(seed);
        let mut tried = 0;
        while self.bound.allows(tried) {
            let input = mutate(&pool, &mut random);
            self.try_one(&input, check);
            tried += 1;
            // Some mutations are mutated again: what is wrong may take several.
            if random.below(8) == 0 {
                if pool.len() < POOL_MAX {
                    pool.push(input);
                } else {
                    let at = random.below(pool.len());
                    pool[at] = input;
                }
            }
        }
        println!("{target}: {tried} mutations from seed {seed}");
    }

    fn try_one(&self, input: &[u8], check: &impl Fn(&[u8])) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
            let (target, seed) = (self.target, self.seed);
            println!(
                "{target}, seed {seed}: it panics at the input in {}; put that into \
                 tests/fuzz/corpus/{target}/ once it is mended",
                self.keep(input).display()
            );
            resume_unwind(panic);
        }
    }

    fn keep(&self, input: &[u8]) -> PathBuf {
        let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let path = self
            .out
            .join(format!("cairn-fuzz-{}-{sum:016x}", self.target));
        if let Err(error) = std::fs::write(&path, input) {
            println!("write {}: {error}", path.display());
        }
        path
    }
}

/// The files of a target, by name.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Texts at which parsers of text go wrong.
const WORDS: [&[u8]; 12] = [
    b"\r\n",
    b"\n",
    b"$-1",
    b"*-1",
    b"$0",
    b"*1048577",
    b"99999999999999999999",
    b"\"",
    b"'",
    b"\0",
    b"[[",
    b"\xff\xfe",
];

fn mutate(pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..=random.below(4) {
        change(&mut input, pool, random);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, pool: &[Vec<u8>], random: &mut Random) {
    let len = input.len();
    // A place to insert at, and one of a byte that is there.
    let place = random.below(len + 1);
    let (from, to) = {
        let (a, b) = (random.below(len + 1), random.below(len + 1));
        (a.min(b), a.max(b))
    };
    match random.below(10) {
        0 if len > 0 => input[place.min(len - 1)] ^= 1 << random.below(8),
        1 if len > 0 => input[place.min(len - 1)] = random.number() as u8,
        2 => input.truncate(place),
        3 => drop(input.drain(from..to)),
        4 => {
            let run = input[from..to.min(from + 256)].to_vec();
            insert(input, place, &run);
        }
        5 => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            let mut bytes = edge[..width].to_vec();
            if random.below(2) == 0 {
                bytes.reverse();
            }
            // In the place of what stands there.
            let end = (place + width).min(len);
            input.splice(place..end, bytes);
        }
        6 => insert(input, place, WORDS[random.below(WORDS.len())]),
        7 => {
            let other = &pool[random.below(pool.len())];
            let start = random.below(other.len() + 1);
            input.truncate(place);
            input.extend_from_slice(&other[start..]);
        }
        8 => {
            let byte = random.number() as u8;
            let run = vec![byte; random.below(300)];
            insert(input, place, &run);
        }
        _ => {
            // A digit becomes another one.
            let digits: Vec<usize> = (0..len).filter(|&at| input[at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                input[digits[random.below(digits.len())]] = b'0' + random.below(10) as u8;
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    input.splice(place..place, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn a_run(bound: u64, out: &Path) -> Run<'static> {
        Run {
            target: "planted",
            bound: Bound::Mutations(bound),
            seed: 1,
            out: out.to_owned(),
        }
    }

    #[test]
    fn a_run_repeats_itself() {
        let tried = || {
            let inputs = RefCell::new(Vec::new());
            a_run(200, Path::new("/")).drive(vec![b"seed".to_vec()], &|input: &[u8]| {
                inputs.borrow_mut().push(input.to_vec());
            });
            inputs.into_inner()
        };
        assert_eq!(tried(), tried());
    }

    #[test]
    fn a_fault_behind_two_conditions_is_found_and_its_input_kept() {
        let out = std::env::temp_dir().join(format!("cairn-fuzz-self-{}", std::process::id()));
        std::fs::create_dir_all(&out).expect("a directory");
        let faulty = |input: &[u8]| input.first() == Some(&b'a') && input.get(2) == Some(&0xff);
        let found = catch_unwind(|| {
            a_run(20_000, &out).drive(vec![b"ab\x04cdef".to_vec()], &|input: &[u8]| {
                assert!(!faulty(input));
            });
        });
        assert!(found.is_err(), "the fault is not found");
        let kept: Vec<_> = std::fs::read_dir(&out)
            .expect("it is there")
            .flatten()
            .collect();
        assert_eq!(kept.len(), 1);
        assert!(faulty(&std::fs::read(kept[0].path()).expect("readable")));
        std::fs::remove_dir_all(&out).expect("removed");
    }
}
