//! Which Services a node translates.

use std::collections::BTreeMap;

/// Which Services the datapath translates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceScope {
    /// Every Service, as kube-proxy does.
    All,
    /// Those that lead to gateway pods.
    #[default]
    Gateway,
    /// Those with these labels.
    Selector(BTreeMap<String, String>),
    /// Those with one of these namespaces and names; `*` stands for any.
    Names(Vec<(String, String)>),
}

impl ServiceScope {
    /// Whether a Service is among them by its name; none if its name does not say.
    pub fn has_name(&self, namespace: &str, name: &str) -> Option<bool> {
        let is = |wanted: &str, it: &str| wanted == "*" || wanted == it;
        match self {
            Self::All => Some(true),
            Self::Names(names) => {
                let mut names = names.iter();
                Some(names.any(|(a, b)| is(a, namespace) && is(b, name)))
            }
            Self::Gateway | Self::Selector(_) => None,
        }
    }
}

/// Who gets an address that several Services claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claims {
    /// The oldest of them; an external IP that is another's cluster IP leads nowhere.
    #[default]
    Oldest,
    /// Each of them, as kube-proxy writes its rules: whose comes first is chance.
    All,
}
