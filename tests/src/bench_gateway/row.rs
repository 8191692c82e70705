//! What is measured of which proxy. Pure.

/// Who stands between clients and origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Ours.
    Portcullis,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Traefik.
    Traefik,
    /// Caddy.
    Caddy,
}

/// What it does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Hands it on.
    Plain,
    /// Hands on an answer of 64 KiB.
    Large,
    /// As [`Self::Plain`], by TLS 1.3.
    Tls,
    /// Knows the client by an API key and counts its requests.
    KeyLimit,
    /// As [`Self::KeyLimit`], and verifies an ES256 token.
    KeyLimitJwt,
    /// Asks the origin three times and merges the answers.
    Composition,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who.
    pub proxy: Proxy,
    /// What.
    pub work: Work,
}

impl Proxy {
    /// All of them; ours first.
    pub const ALL: [Self; 6] =
        [Self::Portcullis, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Traefik, Self::Caddy];

    /// Its name in the rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
        }
    }

    /// Whether it is configured for this work; not all can do it by configuration alone.
    const fn can(self, work: Work) -> bool {
        match (self, work) {
            (Self::Portcullis, _) | (_, Work::Plain | Work::Large | Work::Tls) => true,
            (Self::Nginx | Self::Haproxy, Work::KeyLimit) => true,
            (_, Work::KeyLimit | Work::KeyLimitJwt | Work::Composition) => false,
        }
    }
}

impl Work {
    /// All kinds, the lightest first.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Large, Self::Tls, Self::KeyLimit, Self::KeyLimitJwt, Self::Composition];

    /// Its name in the rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain proxy",
            Self::Large => "64 KiB",
            Self::Tls => "tls",
            Self::KeyLimit => "key + limit",
            Self::KeyLimitJwt => "key + limit + jwt",
            Self::Composition => "composition of three",
        }
    }

    /// How many requests reach the origin for one of a client.
    pub const fn origin_requests(self) -> u64 {
        match self {
            Self::Plain | Self::Large | Self::Tls | Self::KeyLimit | Self::KeyLimitJwt => 1,
            Self::Composition => 3,
        }
    }
}

impl Row {
    /// The rows of one round. In each round another proxy comes first, so that none always follows the same one.
    pub fn round(number: usize) -> Vec<Self> {
        let mut proxies = Proxy::ALL;
        proxies.rotate_left(number % Proxy::ALL.len());
        let rows = |work| proxies.into_iter().map(move |proxy| Self { proxy, work });
        Work::ALL.into_iter().flat_map(rows).filter(|row| row.proxy.can(row.work)).collect()
    }

    /// Where clients ask, in the bench's namespace.
    pub const fn url(self) -> &'static str {
        match (self.proxy, self.work) {
            (_, Work::Plain) => "http://127.0.0.1:8080/plain",
            (_, Work::Large) => "http://127.0.0.1:8080/large",
            (_, Work::Tls) => "https://127.0.0.1:8443/plain",
            (Proxy::Portcullis, Work::KeyLimit) => "http://127.0.0.1:8080/limited",
            (_, Work::KeyLimit) => "http://127.0.0.1:8081/limited",
            (_, Work::KeyLimitJwt) => "http://127.0.0.1:8080/verified",
            (_, Work::Composition) => "http://127.0.0.1:8080/composed",
        }
    }

    /// "proxy work".
    pub fn name(self) -> String {
        format!("{} {}", self.proxy.name(), self.work.name())
    }
}
