"""What the services share and no service owns.

errors        the one error type, and its way over gRPC and back
access        who may call an RPC (read from the descriptors), and who is calling
tokens        verifying access tokens
revocations   which tokens have been ended before their time
jwks          the issuer's public keys, fetched and kept fresh
rpc           the one interceptor: request id, deadline, access, validation, errors
server        builds and runs a gRPC server that fails closed
clients       calls another service with an internal client's token
database      transactions that see one tenant, or only work to dispatch
migrations    brings a database to this version's schema: roles, clock and fences that both services share
identifiers   ids that sort by time, for rows that stay inside
keyring       secrets at rest, encrypted under the installation's master keys
addresses     checks e-mail addresses
languages     the languages that mails and pages have, and which of them a wish means
json_bounds   bounds on JSON objects that people send
redaction     keeps secrets and addresses out of logs
telemetry     structured logs

servicekit knows no service: it imports nothing of member_center, send_engine or gateway.
"""
