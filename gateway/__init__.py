"""The REST face of Messmail: HTTP and JSON in front of the public gRPC services.

routes        which RPC answers which method and path, read from the descriptors
exchange      one HTTP request and its answer
forms         content types, form bodies and HTTP Basic
json_reader   JSON and text into messages
json_writer   messages into JSON
transcode     a whole request into one message, and its answer back
endpoint      answers requests for one route
cross_origin  which pages of other origins may read an answer
problems      errors as problem+json or as RFC 6749 names them
backends      calls the services, and says on whose behalf
openapi       describes it all, from the same descriptors
pages/        what a browser is shown
connection    how long and how large a request may be
request_log   one line for each request
app, wiring   the ASGI application, and the process that serves it

No RPC is named here except the one that issues the gateway's own token: a new RPC is complete once it is in the
contract. What a link may do is decided by Member Center; the gateway only shows it.
"""
