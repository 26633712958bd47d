//! Which properties of control groups are saved.

use crate::Request;

/// Of every directory of a v1 hierarchy.
const EVERY_V1: &[&str] = &["cgroup.clone_children", "notify_on_release", "cgroup.procs", "tasks"];
/// Of every directory of the v2 hierarchy.
const EVERY_V2: &[&str] = &[
    "cgroup.subtree_control",
    "cgroup.max.descendants",
    "cgroup.max.depth",
    "cgroup.freeze",
    "cgroup.type",
    // Only whose it is: those to whom a group is given are given this file.
    "cgroup.procs",
];
/// By v1 controller.
const OF_V1: &[(&str, &[&str])] = &[
    (
        "cpu",
        &[
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.rt_period_us",
            "cpu.rt_runtime_us",
        ],
    ),
    (
        "memory",
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.move_charge_at_immigrate",
            "memory.oom_control",
            "memory.use_hierarchy",
            "memory.kmem.limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
        ],
    ),
    (
        "cpuset",
        &[
            "cpuset.cpus",
            "cpuset.mems",
            "cpuset.memory_migrate",
            "cpuset.cpu_exclusive",
            "cpuset.mem_exclusive",
            "cpuset.mem_hardwall",
            "cpuset.memory_spread_page",
            "cpuset.memory_spread_slab",
            "cpuset.sched_load_balance",
            "cpuset.sched_relax_domain_level",
        ],
    ),
    ("blkio", &["blkio.weight"]),
    ("net_cls", &["net_cls.classid"]),
    ("net_prio", &["net_prio.ifpriomap"]),
    ("pids", &["pids.max"]),
    ("devices", &["devices.list"]),
];
/// By v2 controller: limits that CRIU does not save.
const OF_V2: &[(&str, &[&str])] = &[
    ("cpu", &["cpu.weight", "cpu.max", "cpu.idle"]),
    ("cpuset", &["cpuset.cpus", "cpuset.mems"]),
    (
        "memory",
        &[
            "memory.min",
            "memory.low",
            "memory.high",
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
        ],
    ),
    ("pids", &["pids.max"]),
];

/// The names, with what was asked for.
#[derive(Debug)]
pub(super) struct Names<'a> {
    request: &'a Request,
}

impl<'a> Names<'a> {
    /// As `request` asks.
    pub(super) fn new(request: &'a Request) -> Self {
        Self { request }
    }

    /// Those of a directory of a v1 hierarchy with these controllers.
    pub(super) fn v1(&self, controllers: &str) -> Vec<&'a str> {
        self.all(EVERY_V1, OF_V1, controllers.split(','))
    }

    /// Those of a directory of the v2 hierarchy with these controllers enabled.
    pub(super) fn v2(&self, controllers: &str) -> Vec<&'a str> {
        self.all(EVERY_V2, OF_V2, controllers.split_whitespace())
    }

    fn all<'b>(
        &self,
        every: &'static [&'static str],
        table: &'static [(&'static str, &'static [&'static str])],
        controllers: impl Iterator<Item = &'b str>,
    ) -> Vec<&'a str> {
        let mut all: Vec<&'a str> = every.to_vec();
        for controller in controllers {
            let asked = self.request.cgroup_props.iter().filter(|p| p.controller == controller);
            if !asked.clone().any(|p| p.replace) {
                let usual = table.iter().find(|(name, _)| *name == controller);
                all.extend(usual.iter().flat_map(|(_, names)| names.iter().copied()));
            }
            for name in asked.flat_map(|p| &p.properties) {
                if !all.contains(&name.as_str()) {
                    all.push(name);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CgroupProps;

    #[test]
    fn asked_for_properties_come_besides_or_instead() {
        let mut request = Request::new(1, "/img");
        let props = |controller: &str, replace, name: &str| CgroupProps {
            controller: controller.into(),
            replace,
            properties: vec![name.into(), "pids.max".into()],
        };
        request.cgroup_props = vec![props("pids", false, "pids.x"), props("cpu", true, "cpu.y")];
        let names = Names::new(&request);
        let own = |all: Vec<&str>| {
            all[EVERY_V1.len()..].iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(own(names.v1("pids")), ["pids.max", "pids.x"]);
        assert_eq!(own(names.v1("cpu,cpuacct")), ["cpu.y", "pids.max"]);
        assert_eq!(own(names.v1("blkio")), ["blkio.weight"]);
    }
}
