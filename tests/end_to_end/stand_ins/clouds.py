"""Stand-ins for the identity services of the clouds, on loopback, all on one port.

    clouds.py FOLDER

What they are sent is checked as the real ones do it, by code that is not ours: signatures of AWS by botocore, those of
JSON Web Tokens by `cryptography`. Every token that is given names who asked for it, so that it can be read in
config.json whose identity it was. What was asked is written to FOLDER/asked, a line each; the port to FOLDER/port.
Public keys are in FOLDER/NAME.pub, in PEM. With a key and a certificate in FOLDER/tls.pem it speaks TLS as well, at
the port in FOLDER/tls-port.
"""

import base64
import datetime
import hashlib
import http.server
import json
import pathlib
import re
import socket
import ssl
import sys
import threading
import urllib.parse

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

FOLDER = pathlib.Path(sys.argv[1])
ACCOUNT = "123456789012"
# Access keys: the secret, the session's token, and whose they are.
KEYS = {
    "key-of-base": ("secret-of-base", None, f"arn:aws:iam::{ACCOUNT}:user/base"),
    "key-of-other": ("secret-of-other", None, f"arn:aws:iam::{ACCOUNT}:user/other"),
    "key-of-node": ("secret-of-node", "session-of-node", f"arn:aws:sts::{ACCOUNT}:assumed-role/node/i-1"),
    "key-of-pod": ("secret-of-pod", "session-of-pod", f"arn:aws:sts::{ACCOUNT}:assumed-role/pod/p-1"),
}
# Who may take on a role, and what they have to say.
ROLES = {
    f"arn:aws:iam::{ACCOUNT}:role/pull": ("user/base", None),
    "arn:aws:iam::210987654321:role/partner": ("assumed-role/pull/", "as agreed"),
}
ISSUED = set()
LOCK = threading.Lock()


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


def now():
    """The time that it is here: `ahead` has by how many seconds the clouds' clock is ahead of the machine's."""
    ahead = FOLDER / "ahead"
    return datetime.datetime.now(datetime.UTC).timestamp() + (int(ahead.read_text()) if ahead.exists() else 0)


def note(*words):
    with LOCK, open(FOLDER / "asked", "a") as asked:
        asked.write(" ".join(words) + "\n")


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwt_of(secret, claims, seconds=10_800):
    """A token that nobody verifies but its registry."""
    claims = {"iat": int(now()), "exp": int(now()) + seconds, **claims}
    return f"{b64url(b'{}')}.{b64url(json.dumps(claims).encode())}.{b64url(secret.encode())}"


def verified_jwt(token, name, audience=None, longest=600):
    """The claims of a token, if the key of this name signed it and it is of now."""
    try:
        head, claims, signature = token.split(".")
        key = serialization.load_pem_public_key((FOLDER / f"{name}.pub").read_bytes())
        key.verify(unb64url(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        header, claims = json.loads(unb64url(head)), json.loads(unb64url(claims))
    except Exception as error:
        raise Refused(401, {"error": "invalid_client", "error_description": f"bad assertion: {type(error).__name__}"})
    if header["alg"] != "RS256" or not claims["iat"] <= now() + 5 or not now() < claims["exp"] <= now() + longest + 10:
        raise Refused(401, {"error": "invalid_client", "error_description": "not of now"})
    if audience and claims["aud"] != audience:
        raise Refused(401, {"error": "invalid_client", "error_description": "another audience"})
    return header, claims


def principal(method, url, headers, body):
    """Whose signature it is, by botocore's own code."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme != "AWS4-HMAC-SHA256":
        raise Refused(403, error("MissingAuthenticationToken", "not signed"))
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    key, date, region, service, _ = fields["Credential"].split("/")
    if key not in KEYS:
        raise Refused(403, error("InvalidClientTokenId", "The security token included in the request is invalid."))
    secret, session, arn = KEYS[key]
    request = AWSRequest(method=method, url=url, data=body)
    for name in fields["SignedHeaders"].split(";"):
        request.headers[name] = headers[name]
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(key, secret), service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    if signer.signature(text, request) != fields["Signature"]:
        raise Refused(403, error("SignatureDoesNotMatch", "The signature is not the one that was calculated."))
    if session and headers.get("x-amz-security-token") != session:
        raise Refused(403, error("InvalidClientTokenId", "The security token included in the request is invalid."))
    signed = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    if abs(now() - signed.timestamp()) > 300 or not headers["x-amz-date"].startswith(date):
        raise Refused(403, error("SignatureDoesNotMatch", "Signature expired."))
    return arn, service, region


def error(code, message):
    return (f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            "<RequestId>1</RequestId></ErrorResponse>")


def session_of(arn, session, owner):
    name = arn.split(":role/")[1].rsplit("/", 1)[-1]
    account = arn.split(":")[4]
    who = f"arn:aws:sts::{account}:assumed-role/{name}/{session}"
    key = f"key-{hashlib.sha256((who + owner).encode()).hexdigest()[:12]}"
    KEYS[key] = (f"secret-{key}", f"session-{key}", who)
    return (f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret-{key}</SecretAccessKey>"
            f"<SessionToken>session-{key}</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>"
            f"<AssumedRoleUser><Arn>{who}</Arn><AssumedRoleId>id:{session}</AssumedRoleId></AssumedRoleUser>")


def sts(method, url, headers, body):
    form = dict(urllib.parse.parse_qsl(body.decode()))
    action = form["Action"]
    if action == "AssumeRoleWithWebIdentity":
        if form["WebIdentityToken"] != "token-of-the-cluster":
            raise Refused(400, error("InvalidIdentityToken", "not one of the cluster's"))
        note("sts", action, form["RoleArn"], form["RoleSessionName"])
        result = session_of(form["RoleArn"], form["RoleSessionName"], "web")
    else:
        arn, service, region = principal(method, url, headers, body)
        assert service == "sts", service
        note("sts", action, arn, region)
        if action == "GetCallerIdentity":
            result = f"<Arn>{arn}</Arn><UserId>u</UserId><Account>{arn.split(':')[4]}</Account>"
        else:
            who, external = ROLES.get(form["RoleArn"], (None, None))
            if who is None or who not in arn or form.get("ExternalId") != external:
                raise Refused(403, error("AccessDenied", f"User: {arn} is not authorized to perform: sts:AssumeRole "
                                         f"on resource: {form['RoleArn']}"))
            result = session_of(form["RoleArn"], form["RoleSessionName"], arn)
    return (f"<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{result}"
            f"</{action}Result></{action}Response>")


def issue(secret):
    ISSUED.add(secret)
    return secret


def ecr(target, method, url, headers, body):
    try:
        arn, service, region = principal(method, url, headers, body)
    except Refused as refused:  # the same, as services that speak JSON say it
        code, message = re.search("<Code>(.*)</Code><Message>(.*)</Message>", refused.body).groups()
        code = "InvalidSignatureException" if code == "SignatureDoesNotMatch" else code
        raise Refused(400, {"__type": code, "message": message})
    is_public = target.startswith("SpencerFrontendService")
    assert service == ("ecr-public" if is_public else "ecr"), service
    note(service, arn, region, headers["host"])
    token = base64.b64encode(f"AWS:{issue(f'{service} {region} {arn}')}".encode()).decode()
    expires = now() + 43_200
    data = {"authorizationToken": token, "expiresAt": expires}
    if is_public:
        return {"authorizationData": data}
    return {"authorizationData": [{**data, "proxyEndpoint": "https://registry.example.com"}]}


def subject_of_aws(token, audience):
    """Who signed the question that Google is to ask AWS."""
    question = json.loads(urllib.parse.unquote(token))
    assert "Authorization" in [one["key"] for one in question["headers"]], question
    headers = {one["key"].lower(): one["value"] for one in question["headers"]}
    if headers.get("x-goog-cloud-target-resource") != audience:
        raise Refused(400, {"error": "invalid_grant", "error_description": "for another audience"})
    signed = headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    if "x-goog-cloud-target-resource" not in signed:
        raise Refused(400, {"error": "invalid_grant", "error_description": "the audience is not signed"})
    return principal(question["method"], question["url"], headers, question["body"].encode())[0]


def google_sts(body):
    form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange", form
    assert form["requested_token_type"] == "urn:ietf:params:oauth:token-type:access_token", form
    if form["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request":
        subject = subject_of_aws(form["subject_token"], form["audience"])
    elif form["subject_token"] == "token-of-the-issuer":
        subject = "issuer"
    else:
        raise Refused(400, {"error": "invalid_grant", "error_description": "not a token of the issuer"})
    note("google-sts", form["audience"], subject, form["scope"])
    return {"access_token": issue(f"federated {subject}"), "expires_in": 900, "token_type": "Bearer"}


def google_key(url, body):
    form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer", form
    try:
        header, claims = verified_jwt(form["assertion"], "google", longest=3600)
    except Refused as refused:
        detail = refused.body["error_description"]
        raise Refused(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {detail}"})
    # The second is what google-auth says, whatever the key's file has.
    assert claims["aud"] in (url, "https://oauth2.googleapis.com/token"), claims
    assert claims["exp"] - claims["iat"] <= 3600 and header["kid"] == "key-1", (header, claims)
    note("google-key", claims["iss"], claims["scope"])
    return {"access_token": issue(f"key {claims['iss']}"), "expires_in": 3599, "token_type": "Bearer"}


def google_iam(account, headers, body):
    bearer = headers["authorization"].removeprefix("Bearer ")
    if bearer not in ISSUED:
        raise Refused(401, {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no such token"}})
    wish = json.loads(body)
    assert wish["scope"] == ["https://www.googleapis.com/auth/cloud-platform"], wish
    if account.startswith("denied"):
        raise Refused(403, {"error": {"code": 403, "status": "PERMISSION_DENIED", "message":
                            "Permission 'iam.serviceAccounts.getAccessToken' denied on resource"}})
    seconds = int(wish["lifetime"].removesuffix("s"))
    note("google-iam", account, bearer.replace(" ", "_"), ",".join(wish.get("delegates") or []), str(seconds))
    expires = datetime.datetime.fromtimestamp(now() + seconds, datetime.UTC)
    return {"accessToken": issue(f"acting {account} {bearer}"), "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}


def entra(tenant, url, body):
    form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
    assert form["grant_type"] == "client_credentials", form
    assert form["scope"] == "https://containerregistry.azure.net/.default", form
    how = "secret"
    if "client_assertion" in form:
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        if form["client_assertion"] == "token-of-the-cluster":
            how = "federated"
        else:
            header, claims = verified_jwt(form["client_assertion"], "azure", url)
            assert claims["iss"] == claims["sub"] == form["client_id"], claims
            assert "x5t" in header and "x5t#S256" in header, header
            how = "certificate"
    elif form.get("client_secret") != "secret-of-the-application":
        raise Refused(401, {"error": "invalid_client", "error_description":
                            "AADSTS7000215: Invalid client secret provided.", "error_codes": [7000215]})
    note("entra", tenant, form["client_id"], how)
    token = issue(f"entra {form['client_id']} {how}")
    return {"token_type": "Bearer", "expires_in": 3599, "access_token": token}


def exchange(headers, body):
    form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
    assert form["grant_type"] == "access_token" and form["service"] == headers["host"], (form, headers)
    if form["access_token"] not in ISSUED or "norole" in form["access_token"]:
        raise Refused(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]})
    note("acr", form["access_token"].replace(" ", "_"), form.get("tenant", "-"))
    return {"refresh_token": issue(jwt_of("s", {"sub": form["access_token"]}))}


def github(installation, headers, body):
    try:
        _, claims = verified_jwt(headers["authorization"].removeprefix("Bearer "), "github")
    except Refused:
        raise Refused(401, {"message": "A JSON web token could not be decoded", "documentation_url": "-"})
    wish = json.loads(body)
    note("github", claims["iss"], installation, json.dumps(wish["permissions"]))
    expires = datetime.datetime.fromtimestamp(now() + 3600, datetime.UTC)
    return {"token": issue(f"installation {installation}"), "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}


def temporary(name):
    return {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": f"key-of-{name}",
            "SecretAccessKey": f"secret-of-{name}", "Token": f"session-of-{name}",
            "Expiration": "2100-01-01T00:00:00Z", "LastUpdated": "2020-01-01T00:00:00Z"}


class Clouds(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        url = f"http://{headers.get('host')}{self.path}"
        try:
            status, answer = 200, self.route(urllib.parse.urlsplit(self.path), url, headers, body)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except Exception as bad:  # an assertion: the request is not what a service takes
            note("bad", self.path, repr(bad))
            status, answer = 400, {"error": "invalid_request", "error_description": str(bad)[:300]}
        is_text = isinstance(answer, str)
        text = (answer if is_text else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/xml" if text.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
        if status == 401 and self.path == "/v2/":
            self.send_header("WWW-Authenticate", "Basic realm=\"here\"")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def route(self, path, url, headers, body):
        parts = path.path.strip("/").split("/")
        target = headers.get("x-amz-target", "")
        if target:
            return ecr(target, self.command, url, headers, body)
        if self.command == "POST" and path.path == "/":
            return sts(self.command, url, headers, body)
        if path.path == "/v2/":
            pair = base64.b64decode(headers.get("authorization", "").removeprefix("Basic ")).decode()
            if pair.partition(":")[2] not in ISSUED:
                raise Refused(401, {"errors": [{"code": "UNAUTHORIZED"}]})
            return {}
        if path.path == "/latest/api/token":
            assert self.command == "PUT" and headers["x-aws-ec2-metadata-token-ttl-seconds"]
            return "imds-session"
        if path.path.startswith("/latest/meta-data/iam/security-credentials"):
            if headers.get("x-aws-ec2-metadata-token") != "imds-session":
                raise Refused(401, "no IMDSv2")
            return temporary("node") if parts[-1] == "node" else "node"
        if path.path == "/latest/meta-data/placement/region":
            return "eu-west-1"
        if path.path == "/container":
            if headers.get("authorization") != "token-of-the-pod":
                raise Refused(403, {})
            return temporary("pod")
        if parts[0] == "computeMetadata":
            assert headers.get("metadata-flavor") == "Google"
            account, what = parts[-2], parts[-1]
            if account not in ("default", "special@example.iam.gserviceaccount.com"):
                raise Refused(404, "no such account")
            if what == "email":
                return f"{account}-of-the-machine"
            note("google-metadata", account)
            return {"access_token": issue(f"metadata {account}"), "expires_in": 3000, "token_type": "Bearer"}
        if path.path == "/google/key":
            return google_key(url, body)
        if path.path == "/google/sts":
            return google_sts(body)
        if path.path == "/google/subject":
            assert headers.get("x-asked-by") == "the file"
            return {"value": "token-of-the-issuer"}
        if "serviceAccounts" in parts:
            return google_iam(parts[-1].removesuffix(":generateAccessToken"), headers, body)
        if path.path == "/google/refresh":
            form = dict(urllib.parse.parse_qsl(body.decode()))
            assert form["grant_type"] == "refresh_token" and form["refresh_token"] == "refresh-of-the-user"
            return {"access_token": issue("user"), "expires_in": 3599, "token_type": "Bearer"}
        if path.path.endswith("/oauth2/v2.0/token"):
            return entra(parts[0], url, body)
        if path.path == "/metadata/identity/oauth2/token":
            query = dict(urllib.parse.parse_qsl(path.query))
            assert headers.get("metadata") == "true"
            assert query["resource"] == "https://containerregistry.azure.net", query
            name = query.get("client_id", "system")
            note("azure-metadata", name)
            return {"access_token": issue(f"machine {name}"), "expires_in": "3599", "token_type": "Bearer"}
        if path.path == "/oauth2/exchange":
            return exchange(headers, body)
        if path.path.startswith("/app/installations/"):
            return github(parts[2], headers, body)
        raise Refused(404, {"message": f"nothing is at {path.path}"})

    def date_time_string(self, timestamp=None):
        return super().date_time_string(now() if timestamp is None else timestamp)

    def log_message(self, *_):
        pass


ADDRESS = sys.argv[2]


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET


server = Server((ADDRESS, 0), Clouds)
if (FOLDER / "tls.pem").exists():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "tls.pem")
    behind_tls = Server((ADDRESS, 0), Clouds)
    behind_tls.socket = context.wrap_socket(behind_tls.socket, server_side=True)
    threading.Thread(target=behind_tls.serve_forever, daemon=True).start()
    (FOLDER / "tls-port").write_text(str(behind_tls.server_port))
(FOLDER / "port.new").write_text(str(server.server_port))
(FOLDER / "port.new").rename(FOLDER / "port")
server.serve_forever()
