"""
Checking that the account API is reachable.

No credentials are needed or sent: an API that works refuses a request without them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from middlewared.cli.check.check_result import CheckResult, ok, wrong
from middlewared.cli.check.explanations import explain_no_answer
from middlewared.config import AccountSettings
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.interface import OutgoingFailed, TcpEndpoints, TimedOut
from middlewared.outgoing.tls import ClientTLS, load_trust


async def check_account_api(
    accounts: AccountSettings, endpoints: TcpEndpoints, reactor: Any
) -> CheckResult:
    """Request a profile without credentials; 401 or 403 is correct."""
    tls = ClientTLS(trust=load_trust(None))
    http = PooledHttpClient(reactor=reactor, endpoints=endpoints, tls=tls)
    url = accounts.base_url.rstrip("/") + accounts.profile_path
    place = urlsplit(url).netloc
    try:
        reply = await http.request(
            "GET", url, headers={"Accept": "application/json"}, timeout_s=accounts.timeout_s
        )
    except TimedOut:
        return wrong(f"{place}: no answer within timeout_ms ({accounts.timeout_s:.3g} s)")
    except OutgoingFailed as error:
        return wrong(await explain_no_answer(error, url, endpoints, reactor))
    finally:
        await http.close()
    match reply.status:
        case 401 | 403:
            return ok(f"{place}, refuses a request without credentials ({reply.status})")
        case 404:
            return wrong(f"{place}: 404: set base_url, or profile_path ({accounts.profile_path})")
        case status if 300 <= status < 400:
            return wrong(f"{place}: {status}: redirects are not followed: correct base_url")
        case status if status >= 500:
            return wrong(f"{place}: {status}: the account API is failing")
        case status:
            return wrong(
                f"{place}: {status} without credentials, where 401 is expected: is base_url the"
                " account API's?"
            )
