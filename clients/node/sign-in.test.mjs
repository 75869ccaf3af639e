// People sign in at a real identity provider (the certified `oidc-provider`), in the way that a browser would, and then do at
// the control plane what their groups allow.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import test, { after, before } from "node:test";
import Provider from "oidc-provider";

const GATEWAY = process.env.TOLLGATE_URL;
const ISSUER = process.env.TOLLGATE_OIDC_ISSUER;
const GROUPS = { ada: ["ops"], grace: ["ops", "audit"], eve: ["audit"], mallory: [] };

let server;

before(async () => {
  const provider = new Provider(ISSUER, {
    clients: [
      {
        client_id: "tollgate",
        client_secret: "of-these-tests+and/more",
        redirect_uris: [`${GATEWAY}/auth/callback`],
        response_types: ["code"],
        grant_types: ["authorization_code"],
      },
    ],
    // Groups come with the userinfo only, as this provider has it by default.
    claims: { openid: ["sub"], email: ["email"], profile: ["groups"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.com`, groups: GROUPS[id] }),
    }),
    pkce: { required: () => true },
    cookies: { keys: ["of these tests"] },
  });
  provider.on("server_error", (_, error) => console.error(error));
  server = createServer(provider.callback());
  await new Promise((listening) => server.listen(new URL(ISSUER).port, "127.0.0.1", listening));
});

after(() => {
  server.closeAllConnections();
  server.close();
});

// A browser as far as signing in needs one: cookies of each site, redirections, and forms.
class Browser {
  jars = new Map();

  async fetch(url, options = {}) {
    const { origin } = new URL(url);
    const jar = this.jars.get(origin) ?? new Map();
    this.jars.set(origin, jar);
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    const headers = { "user-agent": "a browser of these tests", ...(cookie && { cookie }), ...options.headers };
    const answer = await fetch(url, { redirect: "manual", ...options, headers });
    for (const set of answer.headers.getSetCookie()) {
      const [pair] = set.split(";");
      const at = pair.indexOf("=");
      jar.set(pair.slice(0, at), pair.slice(at + 1));
    }
    return answer;
  }

  // Follows redirections until there is a page.
  async visit(url, options) {
    let answer = await this.fetch(url, options);
    for (let hops = 0; answer.status >= 300 && answer.status < 400 && hops < 10; hops += 1) {
      url = new URL(answer.headers.get("location"), url).href;
      answer = await this.fetch(url);
    }
    return { url, status: answer.status, text: await answer.text() };
  }

  async submit(page, fields) {
    const action = page.text.match(/<form[^>]*action="([^"]+)"/)[1];
    const hidden = [...page.text.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)];
    const body = new URLSearchParams([...hidden.map(([, name, value]) => [name, value]), ...Object.entries(fields)]);
    return this.visit(new URL(action, page.url).href, { method: "POST", body });
  }

  async signIn(name) {
    let page = await this.visit(`${GATEWAY}/auth/login?next=/auth`);
    assert.match(page.text, /name="login"/, "the provider asks who it is");
    page = await this.submit(page, { login: name, password: "anything" });
    // It asks whether the gateway may know.
    return page.text.includes("<form") && page.url.startsWith(ISSUER) ? this.submit(page, {}) : page;
  }

  async session() {
    const answer = await this.fetch(`${GATEWAY}/auth/session`);
    assert.equal(answer.status, 200);
    return answer.json();
  }

  // For the command line.
  async token() {
    const page = await this.submit(await this.visit(`${GATEWAY}/auth`), {});
    return page.text.match(/TOLLGATE_ADMIN_KEY=(tgp_[0-9a-f]+)/)[1];
  }

  async admin(method, path, body, headers = {}) {
    const { csrf } = await this.session();
    const sent = { method, headers: { "x-tollgate-csrf": csrf, ...headers }, body: body && JSON.stringify(body) };
    const answer = await this.fetch(`${GATEWAY}/admin/v1/${path}`, sent);
    const text = await answer.text();
    return { status: answer.status, headers: answer.headers, body: text ? JSON.parse(text) : null };
  }
}

test("somebody signs in, is who they are, and has the roles of their groups", async () => {
  const ada = new Browser();
  const page = await ada.signIn("ada");
  assert.equal(page.status, 200, page.text);
  assert.match(page.text, /You are signed in/);
  const session = await ada.session();
  assert.equal(session.name, "ada@example.com");
  assert.deepEqual(session.roles, [{ role: "platform-admin", tenant: null }]);
  assert.match((await ada.visit(`${GATEWAY}/auth`)).text, /You are <b>ada@example.com<\/b>/);
  assert.equal((await ada.admin("GET", "tenants")).status, 200);

  const eve = new Browser();
  await eve.signIn("eve");
  assert.equal((await eve.admin("POST", "tenants", { id: "of-eve" })).status, 403);
  const mallory = await new Browser().signIn("mallory");
  assert.equal(mallory.status, 403);
  assert.match(mallory.text, /none of your groups has a role/);
});

test("a second human agrees, and the command line goes on with her token", async () => {
  const [ada, grace] = [new Browser(), new Browser()];
  await ada.signIn("ada");
  await grace.signIn("grace");
  const tenant = "watched-by-two";
  assert.equal((await ada.admin("PUT", "plans/by-two", { second_human: true })).status, 200);
  assert.equal((await ada.admin("POST", "tenants", { id: tenant, plan: "by-two" })).status, 201);
  const token = await ada.token();
  const tollgate = (...args) =>
    execFileSync(process.env.TOLLGATE_BIN, ["--json", ...args], {
      env: { TOLLGATE_URL: GATEWAY, TOLLGATE_ADMIN_KEY: token },
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  const raise = (cap) => ["budget", "set", "--tenant", tenant, "--window", "month", "--cap-usd", cap];
  assert.equal(JSON.parse(tollgate("access", "me")).actor, "person:ada");
  tollgate(...raise("1.00"));
  let refused;
  assert.throws(
    () => tollgate(...raise("2.00")),
    (error) => {
      refused = error.stderr;
      return true;
    },
  );
  const [, number] = refused.match(/approve (a[0-9a-f]{16})/);
  const decide = (who) => who.admin("POST", `approvals/${number}`, { approve: true });
  assert.equal((await decide(ada)).status, 403, "nobody agrees with themselves");
  assert.equal((await decide(grace)).body.state, "approved");
  const budget = JSON.parse(tollgate(...raise("2.00"), "--approval", number));
  assert.equal(budget.cap_usd, "2.00");
  tollgate(...raise("1.00"));
  assert.throws(() => tollgate(...raise("2.00"), "--approval", number), "an approval is used once");

  const out = await ada.fetch(`${GATEWAY}/auth/logout`, {
    method: "POST",
    headers: { "x-tollgate-csrf": (await ada.session()).csrf },
  });
  assert.equal(out.status, 200);
  assert.throws(() => tollgate("access", "me"), "the token ends with the session");
});

// The steps of a document, each as it is printed, by whom it names.
async function walk(name, least) {
  const keys = { operator: process.env.TOLLGATE_ADMIN_KEY };
  for (const person of ["ada", "grace", "eve"]) {
    const browser = new Browser();
    await browser.signIn(person);
    keys[person] = await browser.token();
  }
  const text = readFileSync(join(process.env.TOLLGATE_DOCS, name), "utf8");
  const steps = [...text.matchAll(/<!-- run: (\w+) -->\n```sh\n([^]*?)```/g)];
  assert.ok(steps.length >= least, `${steps.length} steps were found`);
  assert.equal(steps.length, text.split("```sh").length - 1, "each step says whose it is");
  // A folder as `make up` leaves it.
  const cwd = mkdtempSync(join(tmpdir(), "walk-"));
  mkdirSync(join(cwd, ".tollgate"));
  symlinkSync(process.env.TOLLGATE_STORE, join(cwd, ".tollgate/data"));
  symlinkSync(process.env.TOLLGATE_DOCS, join(cwd, "docs"));
  const path = `${dirname(process.env.TOLLGATE_BIN)}:${process.env.PATH}`;
  for (const [, who, commands] of steps) {
    // Whoever was given a key has it from the step before.
    const key = keys[who] ?? readFileSync(join(cwd, `${who}.key`), "utf8").match(/tgs_\w+/)[0];
    const env = { PATH: path, TOLLGATE_URL: GATEWAY, TOLLGATE_ADMIN_KEY: key };
    const ended = spawnSync("bash", ["--norc", "-euo", "pipefail", "-c", commands], {
      cwd,
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
    const expected = commands.includes("# refused") ? 1 : 0;
    assert.equal(ended.status, expected, `${who}: ${commands}\n${ended.stdout}${ended.stderr}`);
  }
  rmSync(cwd, { recursive: true });
}

test("the operator's walk is run as it is printed", () => walk("operating/access.md", 15));

test("the auditor's walk is run as it is printed", () => walk("operating/audit.md", 10));
