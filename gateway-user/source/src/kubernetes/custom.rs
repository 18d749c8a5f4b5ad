//! In which version the cluster has a kind of Istio's.

use kube::{Client, api::ApiResource};

use nodegate_resources::ResourceKind;

/// The versions of Istio's API, the newest first. They differ in nothing but their names.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// The newest version that the cluster serves of a kind; none: it has no such kind.
///
/// # Errors
/// Fails if the API server cannot be asked.
pub async fn served(
    client: &Client,
    kind: ResourceKind,
) -> Result<Option<ApiResource>, kube::Error> {
    let group = kind.group();
    for version in VERSIONS {
        let api_version = format!("{group}/{version}");
        let known = match client.list_api_group_resources(&api_version).await {
            Ok(known) => known,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error),
        };
        let plural = kind.plural();
        let mut resources = known.resources.into_iter();
        if let Some(resource) = resources.find(|resource| resource.name == plural) {
            return Ok(Some(ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version,
                kind: resource.kind,
                plural: plural.to_owned(),
            }));
        }
    }
    Ok(None)
}
