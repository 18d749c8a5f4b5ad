//! kube-proxy's vocabulary: the names that people know from `iptables -t nat -L`.

pub mod chains;
