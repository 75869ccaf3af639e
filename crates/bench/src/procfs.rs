//! What Linux says about a process: its CPU time and its memory. Threads are included by the kernel, child processes by
//! [`family`] (nginx does its work in one).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// User and system time together, resident memory now and at its highest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumption {
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub resident_peak_bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    cpu_ticks: u64,
}

/// A process and all its descendants, the process itself first.
pub fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut members = vec![pid];
    let mut next = 0;
    while let Some(&parent) = members.get(next) {
        members.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    members
}

/// What a process and its descendants have used so far. An error when the process is not there.
pub fn consumption(pid: u32) -> Result<Consumption> {
    let mut total = Consumption::default();
    for member in family(pid) {
        let Some(one) = consumption_of_one(member) else { continue };
        total.cpu += one.cpu;
        total.resident_bytes += one.resident_bytes;
        total.resident_peak_bytes += one.resident_peak_bytes;
    }
    stat(pid).with_context(|| format!("no process {pid} in /proc"))?;
    Ok(total)
}

fn consumption_of_one(pid: u32) -> Option<Consumption> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Consumption {
        cpu: ticks(stat(pid)?.cpu_ticks),
        resident_bytes: status_bytes(&status, "VmRSS")?,
        resident_peak_bytes: status_bytes(&status, "VmHWM")?,
    })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// `/proc/PID/stat`, of proc(5). The name stands in brackets and may hold anything, brackets and spaces too: so the
/// fields are counted from the last bracket, where field 3 begins.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(field(4)?).ok()?, cpu_ticks: field(14)? + field(15)? })
}

/// One `Name:  123 kB` line of `/proc/PID/status`, in bytes.
fn status_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_brackets_and_spaces() {
        let text = "4711 (a) b (c) S 42 4711 4711 0 -1 4194560 100 0 0 0 1234 66 0 0 20 0 3 0 999 1000 200";
        assert_eq!(parse_stat(text), Some(Stat { parent: 42, cpu_ticks: 1300 }));
    }

    #[test]
    fn a_stat_cut_short_is_none() {
        assert_eq!(parse_stat("4711 (nginx) S 42 4711"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_lines_are_found_by_their_whole_name() {
        let text = "Name:\tx\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(status_bytes(text, "VmRSS"), Some(10_485_760));
        assert_eq!(status_bytes(text, "VmHWM"), Some(20_971_520));
        assert_eq!(status_bytes(text, "Vm"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_is_an_error() {
        assert!(consumption(std::process::id()).unwrap().resident_bytes > 0);
        assert!(consumption(u32::MAX).is_err());
    }
}
