//! Which chain of a port of TLS takes a connection: by the name that the client asks for (SNI).

use nodegate_model::gateway::TlsListener;

use crate::host::Hosts;

/// The chains of a listener by name.
#[derive(Debug, Default)]
pub struct SniTable {
    chains: Hosts,
}

impl SniTable {
    /// The table of a listener. If a name occurs twice, the first chain has it.
    pub fn new(listener: &TlsListener) -> Self {
        let mut chains = Hosts::default();
        for (index, chain) in listener.chains.iter().enumerate() {
            if chain.server_names.is_empty() {
                chains.insert("*", index);
            }
            for name in &chain.server_names {
                chains.insert(name, index);
            }
        }
        Self { chains }
    }

    /// The place of the chain for connections that ask for this name, in any case: that of exactly the name,
    /// else of the longest wildcard, else that for all names, which is also for connections that ask for none.
    // Envoy: FilterChainManagerImpl::findFilterChainForServerName.
    pub fn find(&self, name: Option<&str>) -> Option<usize> {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        self.chains.find(&name)
    }
}

#[cfg(test)]
mod tests {
    use nodegate_model::gateway::{ChainProtocol, RouteOrigin, TcpRoute, TlsChain};

    use super::*;

    fn chain(names: &[&str]) -> TlsChain {
        TlsChain {
            name: names.join(" "),
            server_names: names.iter().map(ToString::to_string).collect(),
            protocol: ChainProtocol::Passthrough(TcpRoute {
                origin: RouteOrigin::virtual_service("shop", "web", 0),
                destinations: Vec::new(),
            }),
        }
    }

    #[test]
    fn the_narrowest_name_decides() {
        let mut listener = TlsListener {
            chains: vec![
                chain(&["*.example.com"]),
                chain(&["a.example.com", "b.org"]),
                chain(&["*.b.example.com"]),
            ],
        };
        let table = SniTable::new(&listener);
        for (name, found) in [
            (Some("a.example.com"), Some(1)),
            (Some("A.Example.com"), Some(1)),
            (Some("x.example.com"), Some(0)),
            (Some("x.y.example.com"), Some(0)),
            (Some("x.b.example.com"), Some(2)),
            (Some("b.example.com"), Some(0)),
            (Some("example.com"), None),
            (None, None),
        ] {
            assert_eq!(table.find(name), found, "{name:?}");
        }
        listener.chains.push(chain(&[]));
        let table = SniTable::new(&listener);
        assert_eq!(table.find(Some("example.com")), Some(3));
        assert_eq!(table.find(None), Some(3));
    }
}
