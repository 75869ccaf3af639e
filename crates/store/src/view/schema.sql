-- The view's tables, version 2 (SCHEMA_VERSION in view.rs; raise it with every change here: an older view is rebuilt).
--
-- Money is in picodollars and, as token counts are, a u64: its 64 bits are stored as they are, so what is above
-- 9.2 million USD in one request reads as a negative number here. Sums are of 32-bit halves (columns.rs), so exact.
-- Caps, which may be larger than 64 bits, are decimal text. Times are microseconds since 1970 in UTC.
-- Text of people is ciphertext; digests of keys are not here at all.

-- One row: how far into the journal this view has come.
CREATE TABLE position (
    sequence INTEGER NOT NULL,
    -- The latest time that any of its records bears: records along the journal are never older than those before them.
    latest INTEGER NOT NULL
) STRICT;
INSERT INTO position (sequence, latest) VALUES (0, 0);

-- One row a request. Ids sort by time, so new rows go to the end of the tree.
CREATE TABLE usage_events (
    id BLOB PRIMARY KEY NOT NULL,
    plan TEXT NOT NULL,
    tenant TEXT NOT NULL,
    project TEXT NOT NULL,
    key TEXT NOT NULL,
    -- A keyed hash of the tenant's name for them.
    end_user BLOB,
    -- Seconds that the tenant's clock was ahead of UTC.
    utc_offset INTEGER NOT NULL,
    route TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    stream INTEGER NOT NULL,
    price_version TEXT NOT NULL,
    idempotency_key BLOB,
    idempotency_body BLOB,
    attribution BLOB,
    -- Fingerprint of the policy that let it pass.
    policy BLOB,
    started_at INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    hold_cost INTEGER NOT NULL,
    hold_charge INTEGER NOT NULL,
    -- When the hold last grew.
    extended_at INTEGER,
    -- pending, posted, voided, indeterminate
    state TEXT NOT NULL,
    -- From here on NULL until the request has ended; confidence stays NULL in a voided one.
    ended_at INTEGER,
    input_tokens INTEGER,
    cached_input_tokens INTEGER,
    -- NULL, too, where the provider did not say.
    cache_write_tokens INTEGER,
    audio_input_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    audio_output_tokens INTEGER,
    cpu_us INTEGER,
    cost INTEGER,
    charge INTEGER,
    overrun_cost INTEGER,
    overrun_charge INTEGER,
    confidence TEXT,
    outcome TEXT,
    -- How often it was adjusted; the columns above say what stands now, `adjustments` what stood before.
    adjusted INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- One row a difference that was found later. History is never rewritten: this says what was and what is.
CREATE TABLE adjustments (
    sequence INTEGER PRIMARY KEY NOT NULL,
    id BLOB NOT NULL,
    tenant TEXT NOT NULL,
    adjusted_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    was_cost INTEGER NOT NULL,
    was_charge INTEGER NOT NULL,
    was_overrun_cost INTEGER NOT NULL,
    was_overrun_charge INTEGER NOT NULL,
    was_confidence TEXT NOT NULL,
    cost INTEGER NOT NULL,
    charge INTEGER NOT NULL,
    overrun_cost INTEGER NOT NULL,
    overrun_charge INTEGER NOT NULL,
    confidence TEXT NOT NULL,
    price_version TEXT NOT NULL
) STRICT;
CREATE INDEX adjustments_by_request ON adjustments (id);
-- Those of a tenant's month, for its bill.
CREATE INDEX adjustments_by_tenant ON adjustments (tenant, adjusted_at);

-- A tenant's page in order of ids, skipping what lies outside of a time range without touching the table.
CREATE INDEX usage_by_tenant ON usage_events (tenant, id, started_at);
-- The platform's day or month.
CREATE INDEX usage_by_time ON usage_events (started_at);
-- What an idempotency key stands for.
CREATE INDEX usage_by_idempotency_key ON usage_events (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- What has not ended: always few, however many events there are.
CREATE INDEX usage_open ON usage_events (id) WHERE ended_at IS NULL;

CREATE TABLE plans (
    id TEXT PRIMARY KEY NOT NULL,
    -- JSON, as it is in the journal.
    tariff TEXT NOT NULL,
    tight_budget TEXT NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    parallel_requests INTEGER,
    unpriced_hold INTEGER,
    unbounded_hold INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    id TEXT PRIMARY KEY NOT NULL,
    plan TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    label BLOB,
    zone TEXT NOT NULL,
    -- JSON; NULL: the plan's.
    tariff TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE projects (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    label BLOB,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id TEXT PRIMARY KEY NOT NULL,
    tenant TEXT NOT NULL,
    project TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    -- Names, separated by spaces.
    scopes TEXT NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    parallel_requests INTEGER,
    label BLOB
) STRICT, WITHOUT ROWID;

-- Limits of scopes other than keys.
CREATE TABLE limits (
    -- As in `caps`.
    scope TEXT NOT NULL,
    tenant TEXT NOT NULL,
    part TEXT NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    parallel_requests INTEGER,
    PRIMARY KEY (scope, tenant, part)
) STRICT, WITHOUT ROWID;

-- Every budget there ever was; one that neither refuses (cap) nor alerts says that from then on there was none.
CREATE TABLE caps (
    sequence INTEGER PRIMARY KEY NOT NULL,
    set_at INTEGER NOT NULL,
    -- The kind of scope; then its tenant, or '' where it has none; then which plan, project, key or end user of it.
    scope TEXT NOT NULL,
    tenant TEXT NOT NULL,
    part TEXT NOT NULL,
    window TEXT NOT NULL,
    basis TEXT NOT NULL,
    cap_picousd TEXT,
    -- Separated by spaces.
    alerts_picousd TEXT NOT NULL
) STRICT;

CREATE TABLE price_books (
    sequence INTEGER PRIMARY KEY NOT NULL,
    set_at INTEGER NOT NULL,
    version TEXT NOT NULL,
    sha256 BLOB NOT NULL
) STRICT;
