//! How the kernel is to schedule a data node's threads.

/// Has the calling thread, and all that it starts from now on, take turns of a processor
/// without pushing others off it in the middle of theirs (`SCHED_BATCH`, sched(7)).
///
/// A request passes several threads, each of which wakes the next. Where a thread that was
/// woken takes the processor of the one that woke it, each of them works on one message at a
/// time; where it waits for the other to run out of work, what came meanwhile is done together.
/// On processors with nothing to do nothing is waited for.
///
/// Where the kernel refuses, which it has no reason to, all goes on as it was.
pub(crate) fn in_batches() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads `parameters`, which lives until it returns, and changes nothing in
    // this process's memory. 0 names the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "the kernel schedules this node's threads as any others");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_that_are_started_after_it_are_scheduled_so_too() {
        std::thread::spawn(|| {
            super::in_batches();
            let policy = std::thread::spawn(|| {
                let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("stat");
                // Behind the name, which ends with the last parenthesis: the 41st field of
                // proc_pid_stat(5).
                let (_, rest) = stat.rsplit_once(')').expect("a name");
                let policy = rest.split_whitespace().nth(38).expect("a policy");
                policy.parse::<i32>().expect("a number")
            });
            assert_eq!(policy.join().expect("it ends"), libc::SCHED_BATCH);
        })
        .join()
        .expect("it ends");
    }
}
