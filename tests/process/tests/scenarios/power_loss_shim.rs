//! The shim itself: a tool that is to catch lies must not lie.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::power::{Forget, Power};
use cairn_process_tests::{seed, waiting};
use tempfile::TempDir;

struct Bench {
    directory: TempDir,
    power: Power,
}

impl Bench {
    fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("cairn-shim-")?;
        let data = directory.path().join("data");
        let power = Power::new(&data, &directory.path().join("journal"))?;
        Ok(Self { directory, power })
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, steps: &str) -> Result<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_power_probe"));
        command
            .args(steps.split_whitespace())
            .current_dir(self.data())
            .envs(self.power.environment()?);
        Ok(command)
    }

    fn probe(&self, steps: &str) -> Result<()> {
        let done = self.command(steps)?.output()?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        let (_, mut rng) = seed::draw("power loss shim");
        self.power.cut(Forget::All, &mut rng)?;
        Ok(())
    }
}

fn content(directory: &Path, name: &str) -> Result<Vec<u8>> {
    Ok(fs::read(directory.join(name))?)
}

#[test]
fn what_was_flushed_survives_a_cut_and_the_rest_does_not() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe(
        "create:a append:a:1:1000 flush:a flush-names:. \
         append:a:2:500 write:a:100:3:50 write:a:120:4:10",
    )?;
    assert_eq!(content(&bench.data(), "a")?.len(), 1500);
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    Ok(())
}

#[test]
fn a_flush_covers_all_that_was_written_before_it() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a allocate:a:8192 flush-names:. write:a:0:1:4096 write:a:10:2:20 flush:a write:a:4000:3:200")?;
    bench.cut()?;
    let found = content(&bench.data(), "a")?;
    assert_eq!(found.len(), 8192);
    assert_eq!(found[..10], [1; 10]);
    assert_eq!(found[10..30], [2; 20]);
    assert_eq!(found[30..4096], [1; 4066]);
    assert_eq!(found[4096..], [0; 4096]);
    Ok(())
}

#[test]
fn what_a_process_left_unflushed_the_next_one_has_to_flush() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:100 flush:a flush-names:. append:a:2:100")?;
    // The process died; its page cache lives. The next one reads it and adds to it.
    bench.probe("open:a append:a:3:100")?;
    assert_eq!(content(&bench.data(), "a")?.len(), 300);
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 100]);

    bench.probe("open:a append:a:2:100")?;
    bench.probe("open:a flush:a")?;
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?.len(), 200);
    Ok(())
}

#[test]
fn a_process_that_was_killed_as_it_took_a_note_leaves_the_notes_before_it() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:1000 flush:a flush-names:. write:a:0:2:100")?;
    let file = bench.data().join("a");
    bench.power.tear(&file)?;
    bench.probe("open:a write:a:200:3:100")?;
    assert_eq!(content(&bench.data(), "a")?[200..300], [3; 100]);
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    Ok(())
}

#[test]
fn truncation_and_overwriting_are_undone() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:1000 flush:a flush-names:. length:a:10 append:a:2:5")?;
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    bench.probe("create:a append:a:9:3")?;
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    Ok(())
}

#[test]
fn a_name_that_was_not_flushed_is_gone_and_a_renamed_file_keeps_what_it_flushed() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe(
        "create:lost append:lost:1:10 flush:lost \
         create:old append:old:7:10 flush:old flush-names:.  \
         create:new append:new:8:20 flush:new append:new:9:5 flush-names:. rename:new:old",
    )?;
    // `flush-names` came after `lost` was made, so that it is there.
    bench.probe("create:gone append:gone:1:10 flush:gone")?;
    bench.cut()?;
    assert!(!bench.data().join("gone").exists());
    assert_eq!(content(&bench.data(), "lost")?, vec![1; 10]);
    assert_eq!(content(&bench.data(), "old")?, vec![8; 20]);
    Ok(())
}

#[test]
fn an_inode_that_is_used_again_is_a_new_file() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe(
        "create:a append:a:1:100 flush:a append:a:2:100 remove:a \
         create:b append:b:3:50 flush:b flush-names:.",
    )?;
    bench.cut()?;
    assert_eq!(content(&bench.data(), "b")?, vec![3; 50]);
    Ok(())
}

#[test]
fn an_inode_is_a_new_file_too_where_the_process_was_killed_as_it_removed_the_old_one() -> Result<()>
{
    let bench = Bench::new()?;
    // Two directories: the names of one are flushed without those of the other.
    fs::create_dir(bench.data().join("one"))?;
    fs::create_dir(bench.data().join("two"))?;
    bench.power.die_removing(true)?;
    let removed = bench.probe("create:one/a append:one/a:1:100 remove:one/a");
    ensure!(removed.is_err(), "it went on");
    bench.power.die_removing(false)?;
    let left = bench.data().join("one/a").exists();
    let mut steps = String::from(if left { "remove:one/a" } else { "" });
    // One of them is given the number, unless somebody else was.
    let names: Vec<String> = (0..32).map(|n| format!("two/{n}")).collect();
    for name in &names {
        steps += &format!(" create:{name} append:{name}:3:50 flush:{name}");
    }
    bench.probe(&format!("{steps} flush-names:two"))?;
    bench.cut()?;
    for name in &names {
        assert_eq!(content(&bench.data(), name)?, vec![3; 50]);
    }
    Ok(())
}

#[test]
fn a_copied_file_has_to_be_flushed_too() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:100 flush:a copy:a:b flush-names:.")?;
    assert_eq!(content(&bench.data(), "b")?.len(), 100);
    bench.cut()?;
    assert_eq!(content(&bench.data(), "b")?.len(), 0);
    Ok(())
}

#[test]
fn a_disk_that_lies_loses_what_it_said_it_had_flushed() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:1000 flush:a flush-names:.")?;
    bench.power.lie(true)?;
    bench.probe("open:a append:a:2:500 flush:a create:b flush:b flush-names:.")?;
    bench.power.lie(false)?;
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    assert!(!bench.data().join("b").exists());
    Ok(())
}

#[test]
fn a_flush_that_is_held_up_leaves_unflushed_what_was_written() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:1000 flush:a flush-names:.")?;
    let file = bench.data().join("a");
    ensure!(bench.power.unflushed(&file)?.is_none());
    bench.power.stall(true)?;
    let mut probe = bench
        .command("open:a write:a:100:2:50 write:a:300:3:50 flush:a write:a:0:4:1000")?
        .spawn()?;
    let written = waiting::until("both writes", BOUND, || {
        Ok(bench
            .power
            .unflushed(&file)?
            .filter(|range| range.end == 350))
    });
    probe.kill()?;
    probe.wait()?;
    assert_eq!(written?, 100..350);
    bench.power.stall(false)?;
    assert_eq!(content(&bench.data(), "a")?[300..350], [3; 50]);
    bench.cut()?;
    assert_eq!(content(&bench.data(), "a")?, vec![1; 1000]);
    Ok(())
}

#[test]
fn a_flush_can_be_made_to_fail() -> Result<()> {
    let bench = Bench::new()?;
    bench.power.fail_flushes(true)?;
    let error = bench.probe("create:a append:a:1:10 flush:a").unwrap_err();
    assert!(format!("{error:#}").contains("os error 5"), "{error:#}");
    bench.power.fail_flushes(false)?;
    bench.probe("open:a flush:a")
}

#[test]
fn a_calendar_can_be_set_ahead() -> Result<()> {
    let bench = Bench::new()?;
    let own = || -> Result<u64> { Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()) };
    let told = || -> Result<u64> {
        let done = bench.command("calendar")?.output()?;
        Ok(String::from_utf8(done.stdout)?.trim().parse()?)
    };
    let before = own()?;
    let right = told()?;
    assert!((before..=own()?).contains(&right), "{right}");
    bench.power.skew(true)?;
    let before = own()?;
    let ahead = told()?;
    assert!((before + 60..=own()? + 60).contains(&ahead), "{ahead}");
    bench.power.skew(false)?;
    let before = own()?;
    let right = told()?;
    assert!((before..=own()?).contains(&right), "{right}");
    Ok(())
}

#[test]
fn a_cut_that_forgets_some_leaves_each_sector_old_or_new() -> Result<()> {
    let bench = Bench::new()?;
    bench.probe("create:a append:a:1:51200 flush:a flush-names:. write:a:0:2:51200")?;
    let (_, mut rng) = seed::draw("a cut that forgets some");
    let forgotten = bench.power.cut(Forget::Some, &mut rng)?;
    let found = content(&bench.data(), "a")?;
    let mut old = 0;
    for sector in found.chunks(512) {
        assert!(sector.iter().all(|&b| b == sector[0]) && (1..=2).contains(&sector[0]));
        old += u64::from(sector[0] == 1);
    }
    assert_eq!(forgotten.bytes, old * 512);
    assert!(
        (10..90).contains(&old),
        "of 100 sectors {old} were forgotten"
    );
    Ok(())
}
