//! One table: every form of host of every partition and provider, what it is recognised as, and which address is
//! asked for its token; and the forms that must not match.
//!
//! The addresses of AWS's services are those of its own SDK, as botocore has them too. For FIPS, AWS's list of endpoints
//! has `ecr-fips.REGION`, without `api.` (<https://docs.aws.amazon.com/general/latest/gr/ecr.html>).

use aws_sdk_ecr::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};

use super::azure::authority_of;
use super::*;

/// Host, origin, and who is asked.
const KNOWN: &[(&str, &str, &str)] = &[
    // AWS's own.
    (
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "ecr us-east-1",
        "https://api.ecr.us-east-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr.eu-central-2.amazonaws.com",
        "ecr eu-central-2",
        "https://api.ecr.eu-central-2.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr.ap-southeast-7.amazonaws.com",
        "ecr ap-southeast-7",
        "https://api.ecr.ap-southeast-7.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr.mx-central-1.amazonaws.com:443",
        "ecr mx-central-1",
        "https://api.ecr.mx-central-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr-fips.us-east-2.amazonaws.com",
        "ecr us-east-2 (FIPS)",
        "https://api.ecr-fips.us-east-2.amazonaws.com",
    ),
    (
        "123456789012.dkr-ecr.eu-west-1.on.aws",
        "ecr eu-west-1 (dual stack)",
        "https://ecr.eu-west-1.api.aws",
    ),
    (
        "123456789012.dkr-ecr-fips.us-west-2.on.aws",
        "ecr us-west-2 (FIPS) (dual stack)",
        "https://ecr-fips.us-west-2.api.aws",
    ),
    // GovCloud, China, the European Sovereign Cloud.
    (
        "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
        "ecr us-gov-west-1",
        "https://api.ecr.us-gov-west-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com",
        "ecr us-gov-east-1 (FIPS)",
        "https://api.ecr-fips.us-gov-east-1.amazonaws.com",
    ),
    (
        "123456789012.dkr-ecr-fips.us-gov-west-1.on.aws",
        "ecr us-gov-west-1 (FIPS) (dual stack)",
        "https://ecr-fips.us-gov-west-1.api.aws",
    ),
    (
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "ecr cn-north-1",
        "https://api.ecr.cn-north-1.amazonaws.com.cn",
    ),
    (
        "123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn",
        "ecr cn-northwest-1",
        "https://api.ecr.cn-northwest-1.amazonaws.com.cn",
    ),
    (
        "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
        "ecr cn-north-1 (dual stack)",
        "https://ecr.cn-north-1.api.amazonwebservices.com.cn",
    ),
    (
        "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
        "ecr eusc-de-east-1",
        "https://api.ecr.eusc-de-east-1.amazonaws.eu",
    ),
    // The isolated ones.
    (
        "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
        "ecr us-iso-east-1",
        "https://api.ecr.us-iso-east-1.c2s.ic.gov",
    ),
    (
        "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
        "ecr us-isob-east-1",
        "https://api.ecr.us-isob-east-1.sc2s.sgov.gov",
    ),
    (
        "123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
        "ecr us-isof-south-1",
        "https://api.ecr.us-isof-south-1.csp.hci.ic.gov",
    ),
    (
        "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
        "ecr eu-isoe-west-1",
        "https://api.ecr.eu-isoe-west-1.cloud.adc-e.uk",
    ),
    ("public.ecr.aws", "ecr public", "https://api.ecr-public.us-east-1.amazonaws.com"),
    ("ecr-public.aws.com", "ecr public", "https://api.ecr-public.us-east-1.amazonaws.com"),
    // Google's.
    ("gcr.io", "google", ""),
    ("us.gcr.io", "google", ""),
    ("eu.gcr.io", "google", ""),
    ("asia.gcr.io", "google", ""),
    ("marketplace.gcr.io", "google", ""),
    ("europe-docker.pkg.dev", "google", ""),
    ("us-central1-docker.pkg.dev", "google", ""),
    ("docker.europe-west3.rep.pkg.dev", "google", ""),
    // Azure's: the directory, then the registry itself.
    ("example.azurecr.io", "azure example.azurecr.io", "https://login.microsoftonline.com"),
    ("example.azurecr.cn", "azure example.azurecr.cn", "https://login.chinacloudapi.cn"),
    ("example.azurecr.us", "azure example.azurecr.us", "https://login.microsoftonline.us"),
    ("example.azurecr.de", "azure example.azurecr.de", "https://login.microsoftonline.com"),
];

/// What looks like one of them.
const UNKNOWN: &[&str] = &[
    "12345678901.dkr.ecr.us-east-1.amazonaws.com",
    "x.123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "123456789012.dkr.ecr.us-east-1.amazonaws.com.example.com",
    "123456789012.dkr.ecr.us-east-1.amazonaws.com.cn",
    "123456789012.dkr.ecr.cn-north-1.amazonaws.com",
    "123456789012.dkr-ecr.us-east-1.amazonaws.com",
    "123456789012.dkr.ecr.us-east-1.on.aws",
    "123456789012.dkr.ecr.us-iso-east-1.amazonaws.com",
    "api.ecr.us-east-1.amazonaws.com",
    "x.public.ecr.aws",
    "ecr.aws",
    "gcr.io.example.com",
    "notgcr.io",
    "a.b.gcr.io",
    "docker.pkg.dev",
    "europe-python.pkg.dev",
    "azurecr.io",
    "evilazurecr.io",
    "example.azurecr.io.example.com",
    "ghcr.io",
    "docker.io",
    "quay.io",
    "registry.example.com",
    "localhost:5000",
];

#[tokio::test]
async fn every_host_leads_to_its_issuer_and_no_other_to_any() {
    for (host, origin, asked) in KNOWN {
        let found =
            Origin::of(&host.parse().unwrap()).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(found.to_string(), *origin, "{host}");
        let endpoint = match &found {
            Origin::Ecr(origin) => {
                let (region, fips, dual_stack) = origin.endpoint_rules();
                let parameters = Params::builder()
                    .region(region)
                    .use_fips(fips)
                    .use_dual_stack(dual_stack)
                    .build()
                    .unwrap();
                let resolver = DefaultResolver::new();
                let endpoint = resolver.resolve_endpoint(&parameters).await.unwrap();
                endpoint.url().to_owned()
            }
            Origin::EcrPublic(_) => {
                use aws_sdk_ecrpublic::config::endpoint::{
                    DefaultResolver, Params, ResolveEndpoint,
                };
                let parameters = Params::builder().region(ecr_public::REGION).build().unwrap();
                let resolver = DefaultResolver::new();
                let endpoint = resolver.resolve_endpoint(&parameters).await.unwrap();
                endpoint.url().to_owned()
            }
            Origin::Azure(_) => authority_of(host).to_owned(),
            _ => String::new(),
        };
        assert_eq!(endpoint, *asked, "{host}");
    }
    for host in UNKNOWN {
        let found = Origin::of(&host.parse().unwrap());
        assert!(found.is_err(), "{host} is taken for {}", found.unwrap());
    }
}
