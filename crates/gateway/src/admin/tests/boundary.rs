//! Boundary fuzz of the control plane: people of several tenants, each asking for their own tenant's and for others' things,
//! by every route and with names swapped. Nothing of another tenant may stand in an answer.
//!
//! `BOUNDARY_OPERATIONS` says how many (5,000 in `make test`, half a million in `make fuzz`), `SEED` replays.
#![expect(clippy::disallowed_methods, reason = "how long a fuzz runs is said in the environment")]

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tollgate_guard::{Guard, Role, TEXT};

use super::access::{QUESTIONS, Question, Room, access_of, answered, entry_of, somebody};
use super::*;

const TENANTS: usize = 6;

struct Rooms {
    gateway: Gateway,
    rooms: Vec<Room>,
    /// What only each of them may be told.
    words: Vec<Vec<String>>,
    /// Of others' words, those that each has said themselves: their own audit log may hold them, and nothing else.
    said: Vec<HashSet<String>>,
    random: StdRng,
}

#[tokio::test]
async fn boundary_nobodys_people_are_told_anything_of_another_tenant() {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let operations = from_environment("BOUNDARY_OPERATIONS").unwrap_or(5_000);
    let seed = from_environment("SEED").unwrap_or(20_261_126);
    let mut rooms = Rooms::of(Gateway::start(), seed).await;
    let leaks = rooms.leaks(operations).await;
    println!("boundary-operations {operations}");
    println!("boundary-leaks {}", leaks.len());
    assert!(leaks.is_empty(), "seed {seed}: {} leaks, such as {}", leaks.len(), leaks[0]);
}

#[tokio::test]
async fn boundary_a_guard_without_its_wall_is_found_out() {
    let without_wall = TEXT.split("@id(").filter(|rule| !rule.starts_with("\"wall\"")).skip(1);
    let text: String = without_wall.map(|rule| format!("@id({rule}")).collect();
    let mut gateway = Gateway::start();
    let app = Arc::get_mut(&mut gateway.app).expect("nobody else has it yet");
    app.guard = Guard::new(&text).expect("still a guard");
    let mut rooms = Rooms::of(gateway, 1).await;
    let leaks = rooms.leaks(200).await;
    assert!(leaks.len() > 10, "a missing wall must be noticed: {} leaks", leaks.len());
}

// === impl Rooms ===

impl Rooms {
    async fn of(gateway: Gateway, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut rooms, mut words) = (Vec::new(), Vec::new());
        for number in 0..TENANTS {
            // Words that stand nowhere else: in names, in ids, in amounts.
            let word = format!("{:012x}", random.random::<u64>() >> 16);
            let amount = random.random_range(1_000_000_000_u64..9_999_999_999);
            let tenant = format!("t{word}");
            gateway.post("/admin/v1/tenants", json!({"id": tenant, "name": format!("Name {word}")})).await;
            gateway.post("/admin/v1/projects", json!({"tenant": tenant, "id": format!("p{word}")})).await;
            let key = gateway.key(&tenant).await;
            let (key, secret) = (key["id"].as_str().expect("an id").to_owned(), key["key"].to_string());
            let cap = json!({"tenant": tenant, "window": "month", "cap_usd": format!("7.{amount}")});
            assert_eq!(gateway.put("/admin/v1/budgets", cap).await.0, 200);
            let request = gateway.spend(&tenant, &key, 1_000 + number as u128, amount).to_string();
            let (service_key, approval) = access_of(&gateway, &tenant).await;
            words.push(vec![word, amount.to_string(), key.clone(), secret, request.clone(), service_key.clone()]);
            let entry = entry_of(&gateway, &tenant).await;
            rooms.push(Room { tenant, key, request, service_key, approval, entry });
        }
        Self { gateway, rooms, words, said: vec![HashSet::new(); TENANTS], random }
    }

    /// What was told to people whom it does not concern.
    async fn leaks(&mut self, operations: u64) -> Vec<String> {
        let mut leaks = Vec::new();
        for _ in 0..operations {
            let me = self.random.random_range(0..TENANTS);
            let role = *Role::ALL.choose(&mut self.random).expect("there are roles");
            let operator = somebody(role, Some(self.rooms[me].tenant.parse().expect("a slug")));
            let (question, room) = self.question(me);
            let (status, body) = answered(&self.gateway, Some(&operator), &question, &room).await;
            let body = body.to_string();
            let asked = format!(
                "{} {:?}",
                question.path,
                [&room.tenant, &room.key, &room.request, &room.service_key, &room.approval]
            ) + &question.body;
            let is_own_log = question.operation.contains("audit");
            for (who, words) in self.words.iter().enumerate().filter(|(who, _)| *who != me) {
                for word in words {
                    if asked.contains(word) {
                        self.said[me].insert(word.clone());
                    } else if body.contains(word) && !(is_own_log && self.said[me].contains(word)) {
                        let method = &question.method;
                        leaks.push(format!("{role:?} of {me} is told {word} of {who}: {method} {asked}: {body}"));
                    }
                }
            }
            // To have something of another's done is a leak in the other direction.
            let anothers =
                self.rooms.iter().any(|other| other.tenant == room.tenant) && room.tenant != self.rooms[me].tenant;
            if anothers && question.names_a_tenant() && status.is_success() {
                leaks.push(format!("{role:?} of {me} has {} done with {}: {asked}", question.operation, room.tenant));
            }
        }
        leaks
    }

    /// A question of the access matrix about a room in which names may be swapped, and with more in its address.
    fn question(&mut self, me: usize) -> (Question, Room) {
        let other = self.random.random_range(0..TENANTS);
        let mut pick = |mine: &str, theirs: &str| {
            if self.random.random_bool(0.5) { mine.to_owned() } else { theirs.to_owned() }
        };
        let (mine, theirs) = (&self.rooms[me], &self.rooms[other]);
        let room = Room {
            tenant: pick(&mine.tenant, &theirs.tenant),
            key: pick(&mine.key, &theirs.key),
            request: pick(&mine.request, &theirs.request),
            service_key: pick(&mine.service_key, &theirs.service_key),
            approval: pick(&mine.approval, &theirs.approval),
            entry: pick(&mine.entry, &theirs.entry),
        };
        let mut question = QUESTIONS.choose(&mut self.random).expect("there are questions").clone();
        if question.operation == "list_usage" {
            let more = [format!("&after={}", theirs.request), "&limit=1".to_owned(), "&state=posted".to_owned()];
            let more = more.choose(&mut self.random).expect("one of three");
            let joint = if question.path.contains('?') { more.clone() } else { more.replacen('&', "?", 1) };
            question.path = format!("{}{joint}", question.path).into();
        }
        if question.operation == "list_policy_decisions" && self.random.random_bool(0.5) && question.path.contains('?')
        {
            question.path = format!("{}&request_id={}", question.path, theirs.request).into();
        }
        (question, room)
    }
}
