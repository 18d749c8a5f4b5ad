// The server on TCP of Istio's samples.
module nodegate/parts/samples

go 1.26.0

tool istio.io/istio/samples/tcp-echo/src

require istio.io/istio v0.0.0-20260827124520-eed52ebb66ad
