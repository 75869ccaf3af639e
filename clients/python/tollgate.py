"""What the suite needs beside the SDK: Tollgate's admin API over urllib, to make a tenant for each test and to look at the books."""

import json
import os
import re
import urllib.request
import uuid

URL = os.environ["TOLLGATE_URL"]
ADMIN_KEY = os.environ["TOLLGATE_ADMIN_KEY"]


def admin(method, path, body=None):
    request = urllib.request.Request(
        f"{URL}/admin/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def refusals(code):
    """How many requests the gateway has refused with this code since it started. Tests run one after the other."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=30) as answer:
        found = re.search(rf'^tollgate_refusals_total\{{code="{code}"\}} (\d+)', answer.read().decode(), re.MULTILINE)
    return int(found.group(1)) if found else 0


class Tenant:
    """A tenant of its own for one test, so that what is counted is the test's alone."""

    def __init__(self, cap_usd="1.00", **limits):
        self.id = f"py-{uuid.uuid4().hex[:12]}"
        admin("POST", "tenants", {"id": self.id, "name": self.id})
        budget = {"tenant": self.id, "window": "lifetime", "basis": "cost", "cap_usd": cap_usd}
        admin("PUT", "budgets", budget)
        self.key = admin("POST", "keys", {"tenant": self.id, **limits})["key"]

    def budget(self):
        """Picodollars of the tenant's one budget, by name: the amounts, not the list of alerts."""
        (budget,) = admin("GET", f"budgets?tenant={self.id}")["data"]
        amounts = [item for item in budget.items() if item[0].endswith("_picousd") and isinstance(item[1], str)]
        return {name: int(value) for name, value in amounts}
