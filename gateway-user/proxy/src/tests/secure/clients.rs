//! Clients' certificates: which are let in, and what endpoints are told of them.

use super::*;

#[tokio::test]
async fn clients_show_a_certificate_that_is_good() {
    let authority = Authority::new();
    let endpoint = Endpoint::echoing_heads().await;
    let own = authority.issue(&["a.example"]);
    let tls = mutual(&own, identities(&authority));
    let (_fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
    let stranger = Authority::new();
    let expired = authority.issue_with(&["client.example"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let good = authority.issue(&["client.example"]);
    for (what, client, is_served) in [
        ("none", Client::of(&authority), false),
        (
            "another authority's",
            Client::with(&authority, &stranger.issue(&["client.example"])),
            false,
        ),
        ("expired", Client::with(&authority, &expired), false),
        ("good", Client::with(&authority, &good), true),
    ] {
        let answer = client.get(port, "a.example").await;
        assert_eq!(answer.is_some(), is_served, "{what}");
    }
    let (_, seen) = Client::with(&authority, &good)
        .get(port, "a.example")
        .await
        .unwrap();
    let told = header(&seen, "x-forwarded-client-cert").unwrap();
    let hash = format!("{:x}", Sha256::digest(good.0.der()));
    assert!(told.starts_with(&format!("Hash={hash};Cert=\"")), "{told}");
    assert!(told.ends_with(";URI=;DNS=client.example"), "{told}");
}

#[tokio::test]
async fn a_certificate_may_be_left_out_and_must_not_be_bad() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let tls = DownstreamTls {
        clients: ClientCertificates::Optional(identities(&authority)),
        ..simple(&authority.issue(&["a.example"]))
    };
    let (_fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
    let good = Client::with(&authority, &authority.issue(&["client.example"]));
    let bad = Client::with(&authority, &Authority::new().issue(&["client.example"]));
    for (client, expected) in [(Client::of(&authority), OK), (good, OK), (bad, None)] {
        assert_eq!(client.status(port, "a.example").await.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_certificate_must_be_one_of_those_that_are_named() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let own = authority.issue(&["a.example"]);
    let client = authority.issue(&["client.example"]);
    let hash = format!("{:x}", Sha256::digest(client.0.der()));
    let none = "0".repeat(64);
    let any = || identities(&authority);
    for (clients, expected) in [
        (
            ClientIdentities {
                subject_alt_names: vec!["other.example".into()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                subject_alt_names: vec!["other.example".into(), "client.example".into()],
                ..any()
            },
            OK,
        ),
        (
            ClientIdentities {
                hashes: vec![none.clone()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                hashes: vec![none, hash],
                ..any()
            },
            OK,
        ),
        (
            ClientIdentities {
                spki: vec!["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                spki: vec![STANDARD.encode(Sha256::digest(client.1.subject_public_key_info()))],
                ..any()
            },
            OK,
        ),
    ] {
        let what = format!("{clients:?}");
        let chain = https(&[], mutual(&own, clients));
        fixture.apply(serving(port, vec![chain], &endpoint)).await;
        let client = Client::with(&authority, &client);
        let found = client.status(port, "a.example").await;
        assert_eq!(found.as_deref(), expected, "{what}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let numbered = |number: u64| {
        authority.issue_with(&["client.example"], |params| {
            params.serial_number = Some(SerialNumber::from(number));
        })
    };
    let [good, revoked] = [7, 8].map(numbered);
    let list = |until| {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: until,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(8u64),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&authority.issuer).unwrap().pem().unwrap()
    };
    let own = authority.issue(&["a.example"]);
    for (until, expected) in [
        (date_time_ymd(2124, 1, 1), [OK, None]),
        // Nobody knows what has been revoked since.
        (date_time_ymd(2024, 2, 1), [None, None]),
    ] {
        let clients = ClientIdentities {
            revocations: Some(secret(&list(until))),
            ..identities(&authority)
        };
        let chain = https(&[], mutual(&own, clients));
        fixture.apply(serving(port, vec![chain], &endpoint)).await;
        for (identity, expected) in [&good, &revoked].into_iter().zip(expected) {
            let client = Client::with(&authority, identity);
            let found = client.status(port, "a.example").await;
            assert_eq!(found.as_deref(), expected);
        }
    }
}
