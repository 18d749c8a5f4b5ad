//! Objects as the API server gives them: no text, and so no lines.

use std::{path::PathBuf, sync::Arc};

use nodegate_values::diagnostic::ObjectKey;
use serde_yaml::Value;

use super::{Manifest, Provenance, lines::Lines};
use crate::{
    ResourceKind,
    object::{Body, ManifestPlace, Object},
};

impl Manifest {
    /// The document of an object that the API server gave, and whose type it knows itself.
    pub fn of_body(body: Body) -> Self {
        let metadata = body.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let key = body.kind().key(namespace, name);
        let mut manifest = Self::empty(Provenance::ApiServer, name_of(&key));
        let origin = ManifestPlace {
            file: Arc::clone(&manifest.file),
            lines: Lines::default(),
        };
        manifest
            .objects
            .push(Arc::new(Object { key, body, origin }));
        manifest
    }

    /// The document of an object of this kind that the API server gave as its custom resource's definition
    /// lets it pass, which is no promise that it can be read.
    pub fn of_value(kind: ResourceKind, namespace: &str, name: &str, value: Value) -> Self {
        let name = Self::name_of(kind, namespace, name);
        let mut manifest = Self::empty(Provenance::ApiServer, name);
        manifest.object(value, Lines::default());
        manifest
    }

    /// The document `file` as it was when it held this object, whose text is not known any more.
    pub(crate) fn of_entry(file: PathBuf, value: Value) -> Self {
        let mut manifest = Self::empty(Provenance::File, file);
        manifest.object(value, Lines::default());
        manifest
    }

    /// The name of the document of an object that the API server gives.
    pub fn name_of(kind: ResourceKind, namespace: &str, name: &str) -> PathBuf {
        name_of(&kind.key(namespace, name))
    }
}

fn name_of(key: &ObjectKey) -> PathBuf {
    ["api-server", &key.kind, &key.namespace, &key.name]
        .iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn virtual_service(text: &str) -> Manifest {
        let value = serde_yaml::from_str(text).unwrap();
        Manifest::of_value(ResourceKind::VirtualService, "shop", "web", value)
    }

    #[test]
    fn an_object_of_the_api_server_has_a_name_and_no_place() {
        let mut service = Service::default();
        service.metadata.namespace = Some("shop".into());
        service.metadata.name = Some("web".into());
        let manifest = Manifest::of_body(Body::Service(Box::new(service)));
        let object = &manifest.objects[0];
        assert_eq!(object.key.to_string(), "Service shop/web");
        assert_eq!(object.location(), None);
        let name = Manifest::name_of(ResourceKind::Service, "shop", "web");
        assert_eq!(*manifest.file, name);
    }

    #[test]
    fn what_is_wrong_with_it_is_told_without_a_line() {
        let text = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, spec: {hosts: [a], http: [{rout: []}]}}";
        let manifest = virtual_service(text);
        assert_eq!(
            manifest.diagnostics[0].to_string(),
            "warning: VirtualService shop/web: spec.http[0].rout: unknown field; it is ignored (fix: did you mean `route`?)"
        );
        let manifest = virtual_service(&text.replace("[a]", "7"));
        assert_eq!(
            manifest.unreadable[0].to_string(),
            "VirtualService shop/web"
        );
        assert_eq!(manifest.diagnostics[0].location, None);
    }
}
