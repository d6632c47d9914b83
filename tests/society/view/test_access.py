"""Who may see the pages, over real HTTP."""

import http.client

import pytest

from society.view.access import PageAccess, create_token, is_loopback

PAGES = ("/", "/runs/sums", "/runs/sums/debates", "/static/view.js", "/runs/nope", "/state")


def raw(site, method, path, host):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_carries_the_policy(site, path):
    _, _, headers = site.get(path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert not any(name.lower().startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "192.0.2.7", ""]
)
def test_a_name_that_is_not_this_machines_is_refused(site, host):
    status, text = raw(site, "GET", "/runs/sums", host.format(port=site.port))
    assert status in (400, 421)
    assert "sums" not in text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machines_names_are_known_whatever_the_port(site, host):
    assert raw(site, "GET", "/help", host.format(port=site.port))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_is_answered(site, method):
    status, _, headers = site.ask(method, "/runs/sums")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_token_lets_in_and_leaves_the_address_for_a_cookie(runs, serve):
    token = create_token()
    with serve(runs, token=token) as site:
        for path in (*PAGES, "/?token=wrong", "/?token=", f"/?token={token}x"):
            status, text, _ = site.get(path)
            assert (status, "sums" in text) == (401, False), path
        status, _, headers = site.get(f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        pair = cookie.split(";")[0]
        assert site.get("/runs/sums", Cookie=pair)[0] == 200
        assert site.get("/runs/sums", Cookie=pair[:-1])[0] == 401
        assert site.get("/runs/sums", Cookie=f"other={token}")[0] == 401


def test_tokens_are_long_and_new():
    assert len({create_token() for _ in range(50)}) == 50
    assert len(create_token()) >= 43


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_what_only_this_machine_can_reach(host, alone):
    assert is_loopback(host) is alone


def test_elsewhere_addresses_are_known_and_foreign_names_are_not():
    access = PageAccess("0.0.0.0", 80, "secret")
    assert access.knows("192.0.2.7:80")
    assert access.knows("[2001:db8::1]:80")
    assert not access.knows("evil.example")
    assert "secret" not in repr(access)
