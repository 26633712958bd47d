//! Restartable sequences.

use images::proto::RseqEntry;
use parasite::Saved;

/// A thread's registration, if it has one.
///
/// A thread stopped inside a sequence goes on at its abort handler (see
/// [`Saved::home`]); only one that must not be restarted on signals keeps its pointer.
pub(crate) fn entry(saved: &Saved) -> Option<RseqEntry> {
    let r = &saved.rseq;
    (r.rseq_abi_pointer != 0).then(|| {
        let kept = saved.critical.filter(|cs| saved.home(0) != cs.abort_ip);
        RseqEntry {
            rseq_abi_pointer: r.rseq_abi_pointer,
            rseq_abi_size: r.rseq_abi_size,
            signature: r.signature,
            rseq_cs_pointer: kept.map(|_| saved.rseq_cs),
        }
    })
}
