//! People and machines at the control plane: who gets in, what they may then do, and what needs a second human.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tollgate_types::{Clock, Timestamp};

use crate::identity::{CLIENT, IdentityProvider, SigningKey, unsigned};
use crate::world::{ADMIN_KEY, Answer, Setup, World, bearer};

/// What browsers know the gateway by.
const PUBLIC_URL: &str = "http://localhost:8080";
const BROWSER: &str = "a browser";

struct Place {
    world: World,
    provider: IdentityProvider,
    clock: Clock,
}

/// Somebody's browser, signed in.
struct Browser<'a> {
    place: &'a Place,
    cookie: String,
    csrf: String,
}

/// Makes a token of claims that would be good.
type Forge<'a> = Box<dyn Fn(&Value) -> String + 'a>;

fn noon() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-27T12:00:00Z").expect("a time")
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before} in {text}")).1;
    rest.split_once(after).unwrap_or((rest, "")).0
}

// === impl Place ===

impl Place {
    async fn start() -> Self {
        let provider = IdentityProvider::start().await;
        let clock = Clock::manual(noon());
        let setup = Setup { more: provider.configuration(PUBLIC_URL), clock: clock.clone(), ..Setup::default() };
        Self { world: World::of(setup).await, provider, clock }
    }

    fn claims(&self, subject: &str, groups: &[&str], nonce: &str) -> Value {
        let now = self.clock.now().0 / 1_000_000;
        json!({"iss": self.provider.issuer, "aud": CLIENT, "sub": subject, "email": format!("{subject}@example.com"),
               "groups": groups, "nonce": nonce, "iat": now, "exp": now + 300})
    }

    /// Leaves to sign in: the cookie, the state to come back with, and the nonce.
    async fn leave(&self) -> (String, String, String) {
        let answer = self.get("/auth/login?next=/auth", &[]).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let there = answer.header("location").expect("where to");
        assert!(there.starts_with(&format!("{}/authorize?", self.provider.issuer)), "{there}");
        assert!(there.contains("code_challenge_method=S256") && there.contains("response_type=code"), "{there}");
        let cookie = answer.header("set-cookie").expect("a cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        let cookie = cookie.split(';').next().expect("its value").to_owned();
        (cookie, between(there, "state=", "&").to_owned(), between(there, "nonce=", "&").to_owned())
    }

    /// Comes back with what the provider will give this token for.
    async fn come_back(&self, cookie: &str, state: &str, token: String) -> Answer {
        self.provider.will_answer(token);
        self.get(&format!("/auth/callback?state={state}&code=a-code"), &[("cookie", cookie.to_owned())]).await
    }

    async fn sign_in(&self, subject: &str, groups: &[&str]) -> Browser<'_> {
        let (cookie, state, nonce) = self.leave().await;
        let token = self.provider.key.sign(&self.claims(subject, groups, &nonce));
        let answer = self.come_back(&cookie, &state, token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let set = answer.headers.get_all("set-cookie").iter().next().expect("a cookie").to_str().expect("text");
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
        let cookie = set.split(';').next().expect("its value").to_owned();
        let mut browser = Browser { place: self, cookie, csrf: String::new() };
        let session = browser.get("/auth/session").await;
        assert_eq!(session.status, 200, "{}", session.text());
        session.json()["csrf"].as_str().expect("a token").clone_into(&mut browser.csrf);
        browser
    }

    async fn get(&self, path: &str, headers: &[(&str, String)]) -> Answer {
        let headers = [headers, &[("user-agent", BROWSER.to_owned())]].concat();
        self.world.http.send(Method::GET, path, &headers, "").await
    }

    async fn with_key(&self, method: Method, path: &str, key: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.world.http.send(method, path, &bearer(key), body).await
    }

    fn wait(&self, time: Duration) {
        self.clock.advance(time);
    }
}

// === impl Browser ===

impl Browser<'_> {
    fn headers(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let own = [("cookie", &*self.cookie), ("user-agent", BROWSER)];
        own.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    async fn get(&self, path: &str) -> Answer {
        self.place.world.http.send(Method::GET, path, &self.headers(&[]), "").await
    }

    async fn send(&self, method: Method, path: &str, body: Value, more: &[(&'static str, &str)]) -> Answer {
        let more = [&[("x-tollgate-csrf", &*self.csrf)], more].concat();
        self.place.world.http.send(method, path, &self.headers(&more), body.to_string()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body, &[]).await
    }
}

fn approval_of(answer: &Answer) -> String {
    assert_eq!(answer.refusal(), (409, "approval_pending".to_owned()), "{}", answer.text());
    answer.header("x-tollgate-approval").expect("its number").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_does_what_their_roles_allow_and_signs_out() {
    let place = Place::start().await;
    let ada = place.sign_in("ada", &["ops"]).await;
    let traded = place.provider.traded();
    assert!(traded.contains("code=a-code") && traded.contains("code_verifier="), "{traded}");
    let me = ada.get("/admin/v1/access/me").await.json();
    assert_eq!((&me["actor"], &me["human"]), (&json!("person:ada"), &json!(true)));
    assert_eq!(me["grants"], json!([{"role": "platform-admin", "tenant": null}]));
    assert_eq!(ada.post("/admin/v1/tenants", json!({"id": "new"})).await.status, 201);
    let sessions = ada.get("/admin/v1/access/sessions").await.json();
    assert_eq!(sessions["data"][0]["who"]["name"], "ada@example.com");

    let bob = place.sign_in("bob", &["demo-admins", "strangers"]).await;
    assert_eq!(bob.get("/admin/v1/tenants").await.refusal(), (403, "role_denied".to_owned()));
    assert_eq!(bob.get("/admin/v1/keys?tenant=demo").await.status, 200);
    assert_eq!(bob.get("/admin/v1/keys?tenant=new").await.status, 404);

    // Signing out somebody else, and oneself.
    let out = ada.send(Method::DELETE, "/admin/v1/access/sessions?subject=bob", Value::Null, &[]).await;
    assert_eq!(out.status, 204, "{}", out.text());
    assert_eq!(bob.get("/admin/v1/keys?tenant=demo").await.status, 401);
    let out = ada.post("/auth/logout", Value::Null).await;
    assert_eq!(out.status, 200, "{}", out.text());
    assert_eq!(ada.get("/admin/v1/access/me").await.status, 401);
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_cookie_is_of_no_use() {
    let place = Place::start().await;
    let tenant = json!({"id": "new"});
    let ada = place.sign_in("ada", &["ops"]).await;
    // From another site, which does not know the token, or says where it is from.
    let without = place.world.http.post("/admin/v1/tenants", &ada.headers(&[]), tenant.to_string()).await;
    assert_eq!(without.refusal(), (403, "role_denied".to_owned()));
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("x-tollgate-csrf", "0"),
    ] {
        let mut headers = ada.headers(&[(name, value)]);
        if name != "x-tollgate-csrf" {
            headers.push(("x-tollgate-csrf", ada.csrf.clone()));
        }
        let forged = place.world.http.post("/admin/v1/tenants", &headers, tenant.to_string()).await;
        assert_eq!(forged.status, 403, "{name}: {value}");
    }
    let good = ada.send(Method::POST, "/admin/v1/tenants", tenant, &[("origin", PUBLIC_URL)]).await;
    assert_eq!(good.status, 201, "{}", good.text());
    // Carried to another browser the session ends, for who stole it and for whose it is.
    let elsewhere = [("cookie", ada.cookie.clone()), ("user-agent", "another browser".to_owned())];
    let stolen = place.world.http.send(Method::GET, "/admin/v1/tenants", &elsewhere, "").await;
    assert_eq!(stolen.status, 401);
    assert_eq!(ada.get("/admin/v1/tenants").await.status, 401);
    // A session that is not used ends, and so does one that is used all day; nobody can say which cookie they want.
    let ada = place.sign_in("ada", &["ops"]).await;
    place.wait(Duration::from_secs(29 * 60));
    assert_eq!(ada.get("/admin/v1/tenants").await.status, 200);
    place.wait(Duration::from_secs(31 * 60));
    assert_eq!(ada.get("/admin/v1/tenants").await.status, 401);
    let ada = place.sign_in("ada", &["ops"]).await;
    for _ in 0..12 * 3 - 1 {
        place.wait(Duration::from_secs(20 * 60));
        assert_eq!(ada.get("/admin/v1/tenants").await.status, 200);
    }
    place.wait(Duration::from_secs(20 * 60));
    assert_eq!(ada.get("/admin/v1/tenants").await.status, 401);
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_the_providers_own_for_us_and_now_signs_nobody_in() {
    let place = Place::start().await;
    let (own, strange) = (place.provider.key.clone(), SigningKey::new("first"));
    let unknown = SigningKey::new("unknown");
    let with = |claims: &Value, name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let now = place.clock.now().0 / 1_000_000;
    let forgeries: Vec<(&str, Forge<'_>)> = vec![
        ("no signature", Box::new(unsigned)),
        ("signed with what is public", Box::new(|claims| own.sign_with_what_is_public(claims))),
        ("another's key under the same name", Box::new(|claims| strange.sign(claims))),
        ("an unknown key", Box::new(|claims| unknown.sign(claims))),
        ("another audience", Box::new(|claims| own.sign(&with(claims, "aud", json!("somebody-else"))))),
        (
            "several audiences, and it does not say which",
            Box::new(|claims| own.sign(&with(claims, "aud", json!([CLIENT, "x"])))),
        ),
        ("made for another party", Box::new(|claims| own.sign(&with(claims, "azp", json!("x"))))),
        ("another issuer", Box::new(|claims| own.sign(&with(claims, "iss", json!("https://evil.example"))))),
        ("expired", Box::new(|claims| own.sign(&with(&with(claims, "iat", json!(now - 600)), "exp", json!(now - 60))))),
        ("another sign-in's nonce", Box::new(|claims| own.sign(&with(claims, "nonce", json!("0"))))),
        ("no end", Box::new(|claims| own.sign(&with(claims, "exp", Value::Null)))),
        ("of nobody", Box::new(|claims| own.sign(&with(claims, "sub", json!(""))))),
        ("from the future", Box::new(|claims| own.sign(&with(claims, "iat", json!(now + 3_600))))),
        ("changed after it was signed", Box::new(|claims| own.sign(claims).replacen(".ey", ".eyJ4IjoxfQ", 1))),
        ("no token", Box::new(|_| "nonsense".to_owned())),
    ];
    for (what, forge) in &forgeries {
        // Each comes as late as a careful gateway lets guessers come.
        place.wait(Duration::from_secs(10));
        let (cookie, state, nonce) = place.leave().await;
        let claims = place.claims("eve", &["ops"], &nonce);
        let answer = place.come_back(&cookie, &state, forge(&claims)).await;
        assert_eq!(answer.status, 403, "{what}: {}", answer.text());
        assert!(answer.header("set-cookie").is_none(), "{what}");
    }
    assert_eq!(
        place.with_key(Method::GET, "/admin/v1/access/sessions", ADMIN_KEY, Value::Null).await.json()["data"],
        json!([])
    );

    // A key that the provider has withdrawn is good for as long as its keys were asked for; a new one at once.
    let next = SigningKey::new("next");
    place.provider.publish(&[&next]);
    place.wait(Duration::from_secs(5 * 60));
    let (cookie, state, nonce) = place.leave().await;
    let old = place.come_back(&cookie, &state, own.sign(&place.claims("ada", &["ops"], &nonce))).await;
    assert_eq!(old.status, 403);
    let (cookie, state, nonce) = place.leave().await;
    let good = place.come_back(&cookie, &state, next.sign(&place.claims("ada", &["ops"], &nonce))).await;
    assert_eq!(good.status, 200, "{}", good.text());
    // Nobody comes back twice, nor from a browser that they did not leave from, nor too late; nobody without a group gets in.
    let again = place.come_back(&cookie, &state, next.sign(&place.claims("ada", &["ops"], &nonce))).await;
    assert_eq!(again.status, 403);
    let (_, state, nonce) = place.leave().await;
    let (other, _, _) = place.leave().await;
    let elsewhere = place.come_back(&other, &state, next.sign(&place.claims("ada", &["ops"], &nonce))).await;
    assert_eq!(elsewhere.status, 403);
    let (cookie, state, nonce) = place.leave().await;
    place.wait(Duration::from_secs(10 * 60));
    let late = place.come_back(&cookie, &state, next.sign(&place.claims("ada", &["ops"], &nonce))).await;
    assert_eq!(late.status, 403);
    let (cookie, state, nonce) = place.leave().await;
    let nobody = place.come_back(&cookie, &state, next.sign(&place.claims("eve", &["strangers"], &nonce))).await;
    assert_eq!(nobody.status, 403);
    assert!(nobody.text().contains("none of your groups"), "{}", nobody.text());
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_only_userinfo_tells_count_if_they_are_that_persons() {
    let place = Place::start().await;
    let (cookie, state, nonce) = place.leave().await;
    let mut claims = place.claims("ada", &[], &nonce);
    claims.as_object_mut().expect("claims").remove("groups");
    place.provider.will_say_of(json!({"sub": "eve", "groups": ["ops"]}));
    let anothers = place.come_back(&cookie, &state, place.provider.key.sign(&claims)).await;
    assert_eq!(anothers.status, 503, "{}", anothers.text());
    let (cookie, state, nonce) = place.leave().await;
    claims["nonce"] = json!(nonce);
    place.provider.will_say_of(json!({"sub": "ada", "groups": "ops"}));
    let own = place.come_back(&cookie, &state, place.provider.key.sign(&claims)).await;
    assert_eq!(own.status, 200, "{}", own.text());
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_cap_takes_two_humans_once() {
    let place = Place::start().await;
    let world = &place.world;
    world.plan("standard", json!({"second_human": true})).await;
    let budget = |cap: &str| json!({"tenant": "demo", "window": "month", "cap_usd": cap});
    let path = "/admin/v1/budgets";
    let set = |cap: &str| place.with_key(Method::PUT, path, ADMIN_KEY, budget(cap));
    assert_eq!(set("10").await.status, 200, "a first cap takes from what may be spent");
    assert_eq!(set("5").await.status, 200, "so does a lower one");
    // A machine is somebody's: whoever has its key could be the one who then agrees.
    assert_eq!(set("50").await.refusal(), (403, "role_denied".to_owned()));
    let (ada, grace) = (place.sign_in("ada", &["ops"]).await, place.sign_in("grace", &["ops"]).await);
    let number = approval_of(&ada.send(Method::PUT, path, budget("50"), &[]).await);
    let again = approval_of(&ada.send(Method::PUT, path, budget("50"), &[]).await);
    assert_eq!(again, number, "asked for twice it is one approval");
    let decide = format!("/admin/v1/approvals/{number}");

    // No machine agrees, whatever its role.
    let yes = json!({"approve": true});
    let wanted = json!({"role": "platform-admin"});
    let made = place.with_key(Method::POST, "/admin/v1/service-keys", ADMIN_KEY, wanted).await;
    let machine = made.json()["key"].as_str().expect("a key").to_owned();
    for key in [ADMIN_KEY, &machine] {
        let answer = place.with_key(Method::POST, &decide, key, yes.clone()).await;
        assert_eq!(answer.refusal(), (403, "role_denied".to_owned()));
    }
    // Nor who could not do it: a tenant's own people do not lift what the tenant has bought. Nor who asked.
    let (bob, eve) = (place.sign_in("bob", &["demo-admins"]).await, place.sign_in("eve", &["audit"]).await);
    for who in [&bob, &eve, &ada] {
        assert_eq!(who.post(&decide, yes.clone()).await.refusal(), (403, "role_denied".to_owned()));
    }

    let by = |number: &str| [("x-tollgate-approval", number.to_owned())];
    let with = async |who: &Browser<'_>, cap: &str, number: &str| {
        let by = by(number);
        who.send(Method::PUT, path, budget(cap), &[(by[0].0, &by[0].1)]).await
    };
    assert_eq!(approval_of(&with(&ada, "50", &number).await), number, "nobody has decided yet");
    let decided = grace.post(&decide, yes.clone()).await;
    assert_eq!((decided.status, &decided.json()["state"]), (200, &json!("approved")), "{}", decided.text());
    assert_eq!(grace.post(&decide, yes.clone()).await.status, 409, "decided once");
    assert_eq!(with(&ada, "60", &number).await.status, 409, "it is for what was asked");
    assert_eq!(with(&grace, "50", &number).await.status, 409, "and for who asked");
    assert_eq!(with(&ada, "50", &number).await.status, 200);
    assert_eq!(set("5").await.status, 200);
    assert_eq!(with(&ada, "50", &number).await.status, 409, "and once");

    // What is refused is refused, and what was asked for in the browser may be done with the token for the command line.
    let number = approval_of(&ada.send(Method::PUT, path, budget("70"), &[]).await);
    let no = grace.post(&format!("/admin/v1/approvals/{number}"), json!({"approve": false})).await;
    assert_eq!(no.json()["state"], "rejected");
    assert_eq!(with(&ada, "70", &number).await.status, 409);
    let number = approval_of(&ada.send(Method::PUT, path, budget("70"), &[]).await);
    assert_eq!(grace.post(&format!("/admin/v1/approvals/{number}"), yes.clone()).await.status, 200);
    let page = ada.post("/auth/token", Value::Null).await;
    let token = between(page.text(), "TOLLGATE_ADMIN_KEY=", "<").to_owned();
    let headers = [bearer(&token)[0].clone(), ("x-tollgate-approval", number.clone())];
    let done = world.http.send(Method::PUT, path, &headers, budget("70").to_string()).await;
    assert_eq!(done.status, 200, "{}", done.text());

    // The other ways to the same end need one, too; and nobody has more of them wait than somebody can read.
    world.plan("lax", json!({})).await;
    world.plan("gold", json!({"second_human": true, "audit_days": 400})).await;
    let asked = [
        (Method::DELETE, format!("{path}?tenant=demo&window=month"), Value::Null),
        (Method::PUT, "/admin/v1/tenants/demo".to_owned(), json!({"plan": "lax"})),
        (Method::PUT, "/admin/v1/tenants/demo".to_owned(), json!({"tariff": {"included_usd": "9000000"}})),
        (Method::PUT, "/admin/v1/plans/standard".to_owned(), json!({})),
        (Method::PUT, "/admin/v1/plans/standard".to_owned(), json!({"second_human": true, "included_usd": "9000000"})),
        (Method::PUT, "/admin/v1/plans/gold".to_owned(), json!({"second_human": true, "audit_days": 1})),
        (Method::PUT, path.to_owned(), json!({"plan": "standard", "each": true, "window": "day", "cap_usd": "1"})),
        (Method::PUT, path.to_owned(), json!({"tenant": "demo", "window": "day", "cap_usd": "2"})),
    ];
    for (method, path, body) in asked {
        let answer = ada.send(method, &path, body.clone(), &[]).await;
        match body["plan"].as_str() {
            Some("standard") => assert_eq!(answer.status, 200, "a cap where there was none: {}", answer.text()),
            _ => drop(approval_of(&answer)),
        }
    }
    let waiting = grace.get("/admin/v1/approvals").await.json();
    let waiting: Vec<_> =
        waiting["data"].as_array().expect("a list").iter().filter(|one| one["state"] == "pending").collect();
    let told = |part: &str| waiting.iter().any(|one| one["what"].as_str().is_some_and(|what| what.contains(part)));
    assert!(
        told("9000000") && told("audit_days") && told("per day from 1.00"),
        "whoever decides reads all of it: {waiting:?}"
    );
    for n in waiting.len()..20 {
        approval_of(&ada.send(Method::PUT, path, budget(&format!("10{n}")), &[]).await);
    }
    assert_eq!(ada.send(Method::PUT, path, budget("999"), &[]).await.refusal(), (409, "conflict".to_owned()));
    let late = waiting[0]["id"].as_str().expect("an id").to_owned();
    place.wait(Duration::from_secs(24 * 3_600));
    let grace = place.sign_in("grace", &["ops"]).await;
    assert_eq!(grace.post(&format!("/admin/v1/approvals/{late}"), yes).await.status, 409);
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_glass_is_broken_with_a_second_human_for_a_while_and_is_heard() {
    let place = Place::start().await;
    let ask = json!({"reason": "incident 4711", "minutes": 30});
    let path = "/admin/v1/access/break-glass";
    assert_eq!(place.with_key(Method::POST, path, ADMIN_KEY, ask.clone()).await.status, 403, "no machine");
    let (eve, bob) = (place.sign_in("eve", &["audit"]).await, place.sign_in("bob", &["demo-admins"]).await);
    assert_eq!(bob.post(path, ask.clone()).await.status, 403, "nobody of a tenant's");
    for wrong in [
        json!({"reason": "x", "minutes": 61}),
        json!({"reason": " ", "minutes": 5}),
        json!({"reason": "x", "minutes": 0}),
    ] {
        assert_eq!(eve.post(path, wrong).await.status, 400);
    }
    assert_eq!(eve.post("/admin/v1/tenants", json!({"id": "new"})).await.status, 403);
    let number = approval_of(&eve.post(path, ask.clone()).await);
    let decide = format!("/admin/v1/approvals/{number}");
    assert_eq!(eve.post(&decide, json!({"approve": true})).await.status, 403, "not by herself");
    assert_eq!(bob.post(&decide, json!({"approve": true})).await.status, 403);
    let mallory = place.sign_in("mallory", &["audit"]).await;
    assert_eq!(mallory.post(&decide, json!({"approve": true})).await.status, 200, "an auditor may agree");
    let broken = eve.send(Method::POST, path, ask, &[("x-tollgate-approval", &number)]).await;
    assert_eq!(broken.status, 200, "{}", broken.text());
    // Whatever else is said of it, it is recorded as what it is; and nothing is made by it that outlives it.
    let said = [("x-tollgate-approval", "routine-change")];
    let made = eve.send(Method::POST, "/admin/v1/tenants", json!({"id": "new"}), &said).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let log = place.world.http.get("/admin/v1/audit?limit=200", ADMIN_KEY).await.json();
    let of_it: Vec<_> =
        log["data"].as_array().expect("entries").iter().filter(|entry| entry["act"] == "create_tenant").collect();
    assert!(of_it[..2].iter().all(|entry| entry["note"] == format!("break-glass {number}")), "{of_it:?}");
    assert_eq!(eve.post("/admin/v1/service-keys", json!({"role": "platform-admin"})).await.status, 403);
    let metrics = place.world.http.get("/metrics", ADMIN_KEY).await;
    assert!(metrics.text().contains("tollgate_break_glass_active 1"));
    place.wait(Duration::from_secs(29 * 60));
    assert_eq!(eve.get("/admin/v1/access/me").await.json()["grants"][0]["role"], "platform-admin");
    place.wait(Duration::from_secs(60));
    assert_eq!(eve.post("/admin/v1/tenants", json!({"id": "more"})).await.status, 403, "it ends by itself");
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_key_has_its_role_and_ends() {
    let place = Place::start().await;
    let keys = "/admin/v1/service-keys";
    let new = |wanted: Value| place.with_key(Method::POST, keys, ADMIN_KEY, wanted);
    let soon = place.clock.now().plus(Duration::from_secs(3_600)).to_string();
    let billing = new(json!({"role": "billing", "name": "invoices", "expires_at": soon})).await.json();
    let key = billing["key"].as_str().expect("a key");
    assert_eq!(place.with_key(Method::GET, "/admin/v1/usage", key, Value::Null).await.status, 200);
    assert_eq!(place.with_key(Method::GET, "/admin/v1/keys", key, Value::Null).await.status, 403);
    place.wait(Duration::from_secs(3_600));
    assert_eq!(place.with_key(Method::GET, "/admin/v1/usage", key, Value::Null).await.status, 401, "expired");

    place.world.tenant("other").await;
    let admin = new(json!({"role": "tenant-admin", "tenant": "demo"})).await.json();
    let key = admin["key"].as_str().expect("a key");
    let own = place.with_key(Method::POST, keys, key, json!({"role": "developer", "tenant": "demo"})).await;
    assert_eq!(own.status, 201, "{}", own.text());
    for (wanted, status) in [
        (json!({"role": "developer", "tenant": "other"}), 404),
        (json!({"role": "platform-admin"}), 403),
        (json!({"role": "platform-admin", "tenant": "demo"}), 400),
    ] {
        assert_eq!(place.with_key(Method::POST, keys, key, wanted.clone()).await.status, status, "{wanted}");
    }
    let listed = place.with_key(Method::GET, &format!("{keys}?tenant=demo"), key, Value::Null).await;
    assert_eq!(listed.json()["data"].as_array().map(Vec::len), Some(2));
    assert!(!listed.text().contains("tgs_") && !listed.text().contains("digest"));
    let operators = billing["id"].as_str().expect("an id");
    assert_eq!(place.with_key(Method::DELETE, &format!("{keys}/{operators}"), key, Value::Null).await.status, 403);
    let id = admin["id"].as_str().expect("an id");
    assert_eq!(place.with_key(Method::DELETE, &format!("{keys}/{id}"), ADMIN_KEY, Value::Null).await.status, 200);
    assert_eq!(
        place.with_key(Method::GET, "/admin/v1/keys?tenant=demo", key, Value::Null).await.status,
        401,
        "revoked"
    );
    // A tenant's API key is no key to the control plane, nor the other way round.
    assert_eq!(place.with_key(Method::GET, "/admin/v1/keys", &place.world.key, Value::Null).await.status, 401);
    assert_eq!(place.with_key(Method::GET, "/v1/models", ADMIN_KEY, Value::Null).await.status, 401);
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_heard_ever_more_slowly() {
    let place = Place::start().await;
    let mut heard = 0;
    for n in 0..100 {
        let guess = format!("guess-{n}");
        heard += u32::from(place.with_key(Method::GET, "/admin/v1/tenants", &guess, Value::Null).await.status == 401);
    }
    assert!((10..=12).contains(&heard), "{heard} of 100 were tried");
    let shut = place.with_key(Method::GET, "/admin/v1/tenants", ADMIN_KEY, Value::Null).await;
    assert_eq!(shut.refusal(), (429, "rate_limited".to_owned()), "or a guess that is right would be told");
    // What any web page could have an administrator's browser do is nobody's attempt.
    for _ in 0..50 {
        assert_eq!(place.get("/auth/callback?state=x&code=y", &[]).await.status, 403);
    }
    let wait: u64 = shut.header("retry-after").expect("how long").parse().expect("seconds");
    // The data plane is not held up by it.
    assert_eq!(place.with_key(Method::GET, "/v1/models", &place.world.key, Value::Null).await.status, 200);
    place.wait(Duration::from_secs(wait));
    assert_eq!(place.with_key(Method::GET, "/admin/v1/tenants", ADMIN_KEY, Value::Null).await.status, 200);
    place.world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_the_door_or_the_journal_is_held_up_and_others_are_not() {
    let place = Place::start().await;
    let (cookie, state, nonce) = place.leave().await;
    for _ in 0..49 {
        place.leave().await;
    }
    let token = place.provider.key.sign(&place.claims("ada", &["ops"], &nonce));
    assert_eq!(place.come_back(&cookie, &state, token).await.status, 200, "fifty are let leave from one place");

    // A tenant's machine changes only so much at a time; the operator's is not held up by it.
    let wanted = json!({"role": "tenant-admin", "tenant": "demo"});
    let made = place.with_key(Method::POST, "/admin/v1/service-keys", ADMIN_KEY, wanted).await.json();
    let machine = made["key"].as_str().expect("a key");
    let mut refused = None;
    for n in 0..300 {
        let wrong = json!({"tenant": "demo", "project": "default", "window": "day", "cap_usd": format!("lots {n}")});
        let answer = place.with_key(Method::PUT, "/admin/v1/budgets", machine, wrong).await;
        match answer.status {
            400 => {}
            429 => {
                refused = Some(answer);
                break;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let refused = refused.expect("it is held up");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(place.with_key(Method::GET, "/admin/v1/keys?tenant=demo", machine, Value::Null).await.status, 200);
    assert_eq!(place.with_key(Method::GET, "/admin/v1/tenants", ADMIN_KEY, Value::Null).await.status, 200);

    place.world.close().await;
}
