//! IP families of a Service: which ones it has, and in which order its cluster IPs are.
//!
//! The rules are those of the API server (kubernetes, pkg/registry/core/service/storage/alloc.go,
//! `initIPFamilyFields`) in a cluster with both families whose first one is IPv4.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::object::Object;

/// An IP family, as Services and slices name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What a Service says about its families and cluster IPs, completed but for addresses that are yet
/// to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Families {
    policy: &'static str,
    /// One or two families.
    order: Vec<Family>,
    /// Those that are known, in the order of the families; none for headless Services.
    ips: Vec<IpAddr>,
    headless: bool,
}

impl Family {
    /// An address's.
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The families of a Service that has been admitted; none for `ExternalName`.
pub(crate) fn families(service: &Object) -> Vec<Family> {
    let list = service.at("/spec/ipFamilies").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|name| match name.as_str() {
            Some("IPv4") => Some(Family::V4),
            Some("IPv6") => Some(Family::V6),
            _ => None,
        })
        .collect()
}

/// The addresses that a Service names; none for headless ones.
pub(crate) fn cluster_ips(service: &Object) -> anyhow::Result<Vec<IpAddr>> {
    let all = service.at("/spec/clusterIPs").and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(Value::as_str);
    let mut texts: Vec<&str> = all.filter(|ip| !ip.is_empty()).collect();
    let first = service.at("/spec/clusterIP").and_then(Value::as_str);
    if let Some(first) = first.filter(|ip| !ip.is_empty()) {
        ensure!(
            texts.is_empty() || texts[0] == first,
            "spec.clusterIPs[0]: {} is not spec.clusterIP {first}: make both the same",
            texts[0]
        );
        if texts.is_empty() {
            texts.push(first);
        }
    }
    if texts == ["None"] {
        return Ok(Vec::new());
    }
    let field = |index| match (index, first) {
        (0, Some(_)) => "spec.clusterIP".to_owned(),
        _ => format!("spec.clusterIPs[{index}]"),
    };
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            text.parse()
                .with_context(|| format!("{}: `{text}` is not an address", field(index)))
        })
        .collect()
}

/// Whether a Service has no cluster IP on purpose.
pub(crate) fn headless(service: &Object) -> bool {
    ["/spec/clusterIP", "/spec/clusterIPs/0"]
        .iter()
        .any(|pointer| service.at(pointer).is_some_and(|ip| ip == "None"))
}

impl Families {
    /// What a Service says, and what follows from it and from the version before.
    pub(super) fn of(service: &Object, stored: Option<&Object>) -> anyhow::Result<Self> {
        let headless = headless(service);
        let no_selector = service
            .at("/spec/selector")
            .and_then(Value::as_object)
            .is_none_or(serde_json::Map::is_empty);
        let policy = match policy(service)? {
            Some(policy) => policy,
            None => match stored.and_then(|stored| policy(stored).ok().flatten()) {
                Some(policy) => policy,
                None if headless && no_selector => "RequireDualStack",
                None => "SingleStack",
            },
        };
        let dual = policy != "SingleStack";
        let mut ips = cluster_ips(service)?;
        let mut families = written(service)?;
        for (count, what) in [(ips.len(), "cluster IPs"), (families.len(), "IP families")] {
            ensure!(count <= 2, "spec: {count} {what}: at most two are possible");
            ensure!(
                dual || count < 2,
                "spec.ipFamilyPolicy: {policy} with two {what}: write PreferDualStack or \
                 RequireDualStack"
            );
        }
        for (index, ip) in ips.iter().enumerate() {
            match families.get(index) {
                None => families.push(Family::of(*ip)),
                Some(family) => ensure!(
                    *family == Family::of(*ip),
                    "spec.clusterIPs[{index}]: {ip} is no {family} address, which ipFamilies[{index}] says"
                ),
            }
        }
        if families.is_empty() {
            families = stored.map(self::families).unwrap_or_default();
        }
        if families.is_empty() {
            families.push(Family::V4);
        }
        if dual && families.len() == 1 {
            families.push(families[0].other());
        }
        if !dual {
            families.truncate(1);
        }
        ensure!(
            families.len() < 2 || families[0] != families[1],
            "spec: both IP families are {}: name each once",
            families[0]
        );
        if !headless {
            keep(&mut ips, &families, stored);
        }
        Ok(Self {
            policy,
            order: families,
            ips,
            headless,
        })
    }

    /// Chooses the addresses that are absent.
    pub(super) fn complete(
        &mut self,
        mut choose: impl FnMut(Family) -> anyhow::Result<IpAddr>,
    ) -> anyhow::Result<()> {
        if !self.headless {
            for family in &self.order[self.ips.len()..] {
                self.ips.push(choose(*family)?);
            }
        }
        Ok(())
    }

    /// Writes into the Service what it does not say already.
    pub(super) fn write(&self, service: &mut Object) -> anyhow::Result<()> {
        let families: Vec<String> = self.order.iter().map(Family::to_string).collect();
        let mut fields = vec![
            ("ipFamilyPolicy", json!(self.policy)),
            ("ipFamilies", json!(families)),
        ];
        if self.headless {
            fields.push(("clusterIP", json!("None")));
            fields.push(("clusterIPs", json!(["None"])));
        } else if let Some(first) = self.ips.first() {
            fields.push(("clusterIP", json!(first)));
            fields.push(("clusterIPs", json!(self.ips)));
        }
        fields.retain(|(name, value)| service.at(&format!("/spec/{name}")) != Some(value));
        service.add("spec", &fields)
    }
}

/// Takes over the addresses of the version before that still fit.
fn keep(ips: &mut Vec<IpAddr>, families: &[Family], stored: Option<&Object>) {
    let old = stored.and_then(|stored| cluster_ips(stored).ok());
    let old = old.unwrap_or_default();
    for family in &families[ips.len().min(families.len())..] {
        match old.iter().find(|ip| Family::of(**ip) == *family) {
            Some(ip) => ips.push(*ip),
            None => return,
        }
    }
}

fn policy(service: &Object) -> anyhow::Result<Option<&'static str>> {
    let value = match service.at("/spec/ipFamilyPolicy") {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let known = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    match known.iter().find(|known| value == **known) {
        Some(known) => Ok(Some(known)),
        None => bail!(
            "spec.ipFamilyPolicy: {value} is not one of {}",
            known.join(", ")
        ),
    }
}

fn written(service: &Object) -> anyhow::Result<Vec<Family>> {
    let list = service.at("/spec/ipFamilies").and_then(Value::as_array);
    let count = list.map_or(0, Vec::len);
    let families = families(service);
    ensure!(
        families.len() == count,
        "spec.ipFamilies: write IPv4, IPv6 or both"
    );
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectKey;

    fn service(spec: &Value) -> Object {
        let value = json!({"kind": "Service", "metadata": {"name": "web"}, "spec": spec});
        Object::generated(ObjectKey::new("", "Service", "default", "web"), value).unwrap()
    }

    /// Policy, families and addresses, with `4` and `6` for those that are chosen.
    fn defaulted(spec: &Value, stored: Option<&Object>) -> anyhow::Result<Object> {
        let mut service = service(spec);
        let mut families = Families::of(&service, stored)?;
        families.complete(|family| {
            Ok(match family {
                Family::V4 => "10.96.0.4".parse()?,
                Family::V6 => "fd00:96::6".parse()?,
            })
        })?;
        families.write(&mut service)?;
        Ok(service)
    }

    fn fields(service: &Object) -> Value {
        let at = |name: &str| service.at(&format!("/spec/{name}")).cloned();
        json!([at("ipFamilyPolicy"), at("ipFamilies"), at("clusterIPs")])
    }

    #[test]
    fn families_are_what_the_api_server_makes_of_them() {
        let some = json!({"a": "b"});
        let (v4, v6) = (json!("10.96.0.4"), json!("fd00:96::6"));
        for (spec, expected) in [
            (json!({}), json!(["SingleStack", ["IPv4"], [v4]])),
            (
                json!({"ipFamilies": ["IPv6"]}),
                json!(["SingleStack", ["IPv6"], [v6]]),
            ),
            (
                json!({"clusterIP": "fd00::9"}),
                json!(["SingleStack", ["IPv6"], ["fd00::9"]]),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                json!(["PreferDualStack", ["IPv4", "IPv6"], [v4, v6]]),
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                json!(["RequireDualStack", ["IPv6", "IPv4"], [v6, v4]]),
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["fd00::9", "10.9.9.9"]}),
                json!([
                    "RequireDualStack",
                    ["IPv6", "IPv4"],
                    ["fd00::9", "10.9.9.9"]
                ]),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "10.9.9.9"}),
                json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.9.9.9", v6]]),
            ),
            (
                json!({"clusterIP": "None", "selector": some}),
                json!(["SingleStack", ["IPv4"], ["None"]]),
            ),
            // Whoever writes the endpoints may write both families.
            (
                json!({"clusterIP": "None"}),
                json!(["RequireDualStack", ["IPv4", "IPv6"], ["None"]]),
            ),
        ] {
            let service = defaulted(&spec, None).unwrap();
            assert_eq!(fields(&service), expected, "{spec}");
            assert_eq!(
                service.at("/spec/clusterIP"),
                Some(&expected[2][0]),
                "{spec}"
            );
            // What has been admitted stays the same.
            let again = defaulted(&service.value["spec"].clone(), Some(&service)).unwrap();
            assert_eq!(again.value, service.value, "{spec}");
        }
    }

    #[test]
    fn changes_keep_the_addresses_that_fit() {
        let dual =
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.9.9.9", "fd00::9"]});
        let dual = defaulted(&dual, None).unwrap();
        // A manifest that says nothing.
        let kept = defaulted(&json!({}), Some(&dual)).unwrap();
        assert_eq!(fields(&kept), fields(&dual));
        let single = defaulted(&json!({"ipFamilyPolicy": "SingleStack"}), Some(&dual)).unwrap();
        assert_eq!(
            fields(&single),
            json!(["SingleStack", ["IPv4"], ["10.9.9.9"]])
        );
        let more = json!({"ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(
            fields(&defaulted(&more, Some(&single)).unwrap()),
            json!([
                "PreferDualStack",
                ["IPv4", "IPv6"],
                ["10.9.9.9", "fd00:96::6"]
            ])
        );
    }

    #[test]
    fn contradictions_are_refused() {
        for (spec, part) in [
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "SingleStack with two IP families",
            ),
            (
                json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}),
                "SingleStack with two cluster IPs",
            ),
            (
                json!({"ipFamilies": ["IPv6"], "clusterIP": "10.0.0.1"}),
                "no IPv6 address",
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv4"]}),
                "name each once",
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
                "name each once",
            ),
            (json!({"ipFamilyPolicy": "Dual"}), "not one of"),
            (json!({"ipFamilies": ["v4"]}), "write IPv4"),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
                "make both the same",
            ),
        ] {
            let error = defaulted(&spec, None).unwrap_err().to_string();
            assert!(error.contains(part), "{spec}: {error}");
        }
    }
}
