//! Boundary fuzz of the data plane: many tenants at once, each asking for its own and for others' things in every way that
//! comes to mind. Whatever comes back to one must hold nothing of another: no name, no id, no secret, no answer.
//!
//! `BOUNDARY_OPERATIONS` says how many (5,000 in `make test`, half a million in `make fuzz`), `SEED` replays.

use std::collections::HashMap;

use bytes::Bytes;
use http::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::world::{Answer, World, ask};

const TENANTS: usize = 12;
/// Named by several tenants: what one of them began must not be another's to go on with.
const COMMON: [&str; 4] = ["order-1", "order-2", "retry", "x"];
const MODELS: [&str; 5] = ["gpt-4o-mini", "renamed", "unpriced", "gpt-4o-mini+http-500", "no-such-model"];

struct Tenant {
    id: String,
    key_id: String,
    key: String,
    revoked: String,
    /// Words that only it may be told, besides the ids of its requests.
    words: Vec<String>,
    requests: Vec<String>,
}

/// One thing that a tenant tries.
struct Attempt {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

struct Fuzz {
    world: World,
    tenants: Vec<Tenant>,
    /// Whose each request, and each answer of the provider, is.
    whose: HashMap<String, usize>,
    random: StdRng,
    leaks: Vec<String>,
}

#[tokio::test]
async fn boundary_no_tenant_is_ever_told_anything_of_another() {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let operations = from_environment("BOUNDARY_OPERATIONS").unwrap_or(5_000);
    let seed = from_environment("SEED").unwrap_or(20_261_126);
    let mut fuzz = Fuzz::start(seed).await;
    for operation in 0..operations {
        fuzz.step(operation).await;
    }
    println!("boundary-operations {operations}");
    println!("boundary-leaks {}", fuzz.leaks.len());
    assert!(fuzz.leaks.is_empty(), "seed {seed}: {} leaks, such as {}", fuzz.leaks.len(), fuzz.leaks[0]);
    assert!(fuzz.whose.len() as u64 > operations / 4, "hardly anything was answered: {}", fuzz.whose.len());
    fuzz.world.settled().await;
    fuzz.world.close().await;
}

// === impl Fuzz ===

impl Fuzz {
    async fn start(seed: u64) -> Self {
        let world = World::start().await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut tenants = Vec::new();
        for _ in 0..TENANTS {
            // A word that stands nowhere else.
            let word = format!("{:012x}", random.random::<u64>() >> 16);
            let id = format!("t{word}");
            let (key_id, key) = world.tenant(&id).await;
            let (revoked_id, revoked) = world.new_key(json!({"tenant": id, "name": format!("Name {word}")})).await;
            world.admin.revoke_key(&revoked_id).await.expect("it is revoked");
            let words = vec![word, key_id.clone(), key.clone(), revoked_id, revoked.clone()];
            tenants.push(Tenant { id, key_id, key, revoked, words, requests: Vec::new() });
        }
        Self { world, tenants, whose: HashMap::new(), random, leaks: Vec::new() }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random).cloned().expect("something to choose from")
    }

    async fn step(&mut self, operation: u64) {
        let me = self.random.random_range(0..TENANTS);
        let other = self.random.random_range(0..TENANTS);
        let attempt = self.attempt(me, other, operation);
        let Attempt { method, path, headers, body } = &attempt;
        let answer = self.world.http.send(method.clone(), path, headers, body.clone()).await;
        if me != other && path.starts_with(&format!("/t/{}/", self.tenants[other].id)) && answer.status < 400 {
            let public = path.ends_with("/v1/receipts/keys");
            if !public {
                self.leaks.push(format!("{} on another's address {path}: {}", answer.status, answer.text()));
            }
        }
        self.look(me, &attempt, &answer);
    }

    /// Whether the answer holds anything of anybody else that the question did not hold already.
    fn look(&mut self, me: usize, attempt: &Attempt, answer: &Answer) {
        let mut seen = String::from_utf8_lossy(&answer.body).into_owned();
        for (name, value) in &answer.headers {
            seen.push_str(&format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        let asked = format!("{} {:?} {}", attempt.path, attempt.headers, String::from_utf8_lossy(&attempt.body));
        for (who, tenant) in self.tenants.iter().enumerate().filter(|(who, _)| *who != me) {
            for word in tenant.words.iter().filter(|word| seen.contains(*word) && !asked.contains(*word)) {
                self.leaks.push(format!("{me} is told {word} of {who} by {asked}: {seen}"));
            }
        }
        for id in ids(&seen) {
            if asked.contains(&id) {
                continue;
            }
            let owner = *self.whose.entry(id.clone()).or_insert(me);
            if owner != me {
                self.leaks.push(format!("{me} is told {id} of {owner} by {asked}"));
            } else if id.starts_with("req_") && answer.status == 200 {
                self.tenants[me].requests.push(id);
            }
        }
    }

    fn attempt(&mut self, me: usize, other: usize, operation: u64) -> Attempt {
        let prefix = match self.random.random_range(0..10) {
            0..5 => String::new(),
            5..7 => format!("/t/{}", self.tenants[me].id),
            7..9 => format!("/t/{}", self.tenants[other].id),
            _ => "/t/nobody".to_owned(),
        };
        let mut headers = vec![("authorization", format!("Bearer {}", self.credentials(me, other)))];
        if self.random.random_bool(0.2) {
            headers.push(("x-tollgate-end-user", self.pick(&COMMON).to_owned()));
        }
        if self.random.random_bool(0.1) {
            let project = self.pick(&["default".to_owned(), self.tenants[other].id.clone()]);
            headers.push(("x-tollgate-project", project));
        }
        let (method, path, body) = match self.random.random_range(0..100) {
            0..45 => {
                if self.random.random_bool(0.4) {
                    headers.push(("idempotency-key", self.pick(&COMMON).to_owned()));
                }
                (Method::POST, format!("{prefix}/v1/chat/completions"), self.chat(me, operation))
            }
            45..50 => {
                let body = json!({"model": "text-embedding-3-small", "input": "hello", "user": self.tenants[other].id});
                (Method::POST, format!("{prefix}/v1/embeddings"), body.to_string().into())
            }
            50..55 => (Method::GET, format!("{prefix}/v1/models"), Bytes::new()),
            55..58 => {
                let name = self.pick(&["gpt-4o-mini".to_owned(), self.tenants[other].id.clone()]);
                (Method::GET, format!("{prefix}/v1/models/{name}"), Bytes::new())
            }
            58..80 => (Method::GET, format!("{prefix}/v1/receipts/{}", self.request(me, other)), Bytes::new()),
            80..82 => (Method::GET, format!("{prefix}/v1/receipts/keys"), Bytes::new()),
            82..92 => (Method::GET, self.crooked(other), Bytes::new()),
            _ => (self.pick(&[Method::GET, Method::PUT, Method::DELETE]), self.admin(other), Bytes::new()),
        };
        Attempt { method, path, headers, body }
    }

    /// Mostly its own key; sometimes one that is no more, or one made up from others' parts.
    fn credentials(&mut self, me: usize, other: usize) -> String {
        let (mine, theirs) = (&self.tenants[me], &self.tenants[other]);
        match self.random.random_range(0..40) {
            0 => mine.revoked.clone(),
            1 => theirs.key_id.clone(),
            2 => mine.key.replace(&mine.key_id, &theirs.key_id),
            3 => mine.key[..mine.key.len() - 1].to_owned(),
            4 => String::new(),
            _ => mine.key.clone(),
        }
    }

    fn chat(&mut self, me: usize, operation: u64) -> Bytes {
        // Few bodies, so that tenants meet in idempotency keys with the same one.
        let said =
            self.pick(&["hello".to_owned(), format!("I am {}", self.tenants[me].id), (operation % 7).to_string()]);
        let mut body = ask(self.pick(&MODELS));
        body["messages"] = json!([{"role": "user", "content": said}]);
        body["max_tokens"] = json!(5);
        if self.random.random_bool(0.3) {
            body["stream"] = json!(true);
        }
        body.to_string().into()
    }

    fn request(&mut self, me: usize, other: usize) -> String {
        let of = if self.random.random_bool(0.7) { other } else { me };
        match self.tenants[of].requests.choose(&mut self.random).cloned() {
            Some(id) if self.random.random_bool(0.9) => id,
            Some(id) => id.to_uppercase(),
            None => format!("req_{:032x}", self.random.random::<u128>()),
        }
    }

    /// Addresses that try to come out somewhere else than they seem to.
    fn crooked(&mut self, other: usize) -> String {
        let id = self.tenants[other].id.clone();
        let receipt = self.tenants[other].requests.last().cloned().unwrap_or_default();
        let ways = [
            format!("/t/nobody/../{id}/v1/models"),
            format!("/t/{id}%2fv1/models"),
            format!("/t/%74{}/v1/models", &id[1..]),
            format!("//t/{id}/v1/models"),
            format!("/t/{id}//v1/models"),
            format!("/t/{}/v1/models", id.to_uppercase()),
            format!("/v1/receipts/../receipts/{receipt}"),
            format!("/v1/receipts/{receipt}/"),
            format!("/v1/receipts/{receipt}?tenant={id}"),
            format!("/v1/models?tenant={id}"),
            format!("/t/{id}/v1/receipts/{receipt}?x=/t/demo"),
            format!("/t/{id}/admin/v1/keys"),
            format!("/t/{id}/metrics"),
        ];
        self.pick(&ways)
    }

    fn admin(&mut self, other: usize) -> String {
        let (id, key) = (self.tenants[other].id.clone(), self.tenants[other].key_id.clone());
        let ways = [
            format!("/admin/v1/tenants/{id}"),
            format!("/admin/v1/keys?tenant={id}"),
            format!("/admin/v1/keys/{key}"),
            format!("/admin/v1/usage?tenant={id}"),
            "/admin/v1/tenants".to_owned(),
            "/admin/v1/policies/decisions".to_owned(),
        ];
        self.pick(&ways)
    }
}

/// Ids of requests, and of the provider's answers, in a text.
fn ids(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words = text.split(|c: char| !is_part(c));
    let id = |word: &&str| word.len() >= 12 && (word.starts_with("req_") || word.starts_with("chatcmpl"));
    words.filter(id).map(str::to_owned).collect()
}

/// What others use up tells of them: so a refusal by what is shared says that it is used up, and nothing of how much.
#[tokio::test]
async fn boundary_a_refusal_by_what_is_shared_carries_no_amounts() {
    // Its own it is told: so the words are there to be found.
    let world = World::start().await;
    world.budget(json!({"tenant": "demo", "window": "day", "cap_usd": "0.000012345"})).await;
    let own = told_off(&world, "budget_exceeded").await;
    assert!(own.contains("0.000012345 usd"), "{own}");
    world.close().await;
    for shared in [json!({"platform": true}), json!({"plan": "standard"})] {
        let world = World::start().await;
        let mut budget = shared.clone();
        budget["window"] = json!("day");
        budget["cap_usd"] = json!("0.000012345");
        world.budget(budget).await;
        let refused = told_off(&world, "budget_exceeded").await;
        for amount in ["0.000012345", "12345", "$", "usd"] {
            assert!(!refused.contains(amount), "{amount} is told: {refused}");
        }
        world.close().await;

        let world = World::start().await;
        let mut limit = shared;
        limit["requests_per_minute"] = json!(7);
        world.admin.set_limits(&serde_json::from_value(limit).expect("a limit")).await.expect("it is set");
        let refused = told_off(&world, "rate_limited").await;
        // When to come again is no secret.
        let (limit, _) = refused.split_once("retry in").expect("when to come again");
        assert!(!limit.contains(|c: char| c.is_ascii_digit()) && !refused.contains("x-ratelimit"), "{refused}");
        world.close().await;
    }
}

/// Asks until it is refused, and gives back what was said then: the message, and the names and values of headers that tell of
/// limits and budgets; in small letters.
async fn told_off(world: &World, code: &str) -> String {
    for _ in 0..200 {
        let mut body = ask("gpt-4o-mini");
        body["max_tokens"] = json!(1);
        let answer = world.chat(body).await;
        if answer.status == 429 {
            assert_eq!(answer.refusal().1, code, "{}", answer.text());
            let told = answer.headers.iter().filter(|(name, _)| {
                name.as_str().starts_with("x-ratelimit") || name.as_str().starts_with("x-tollgate")
            });
            let told: Vec<String> = told.map(|(name, value)| format!("{name}: {value:?}")).collect();
            return format!("{} {}", answer.message(), told.join(" ")).to_lowercase();
        }
    }
    panic!("never refused");
}
