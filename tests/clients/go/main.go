// Command client is grpc-go for the tests: it does what JSON lines on its stdin say, and writes what comes of it as
// JSON lines on its stdout. Requests and responses pass through Envoy's own Go types, so that what these do not take
// is noticed. It ends when its stdin does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

const lineBytesMax = 256 << 20

// Command is one line on stdin; which fields count depends on Do.
type Command struct {
	Do         string            `json:"do"`
	Connection int               `json:"connection"`
	Call       int               `json:"call"`
	Target     string            `json:"target"`
	TLS        *TLSFiles         `json:"tls"`
	Path       string            `json:"path"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	TimeoutS   float64           `json:"timeout_s"`
	Compress   string            `json:"compress"`
	Window     int32             `json:"window"`
	KeepaliveS float64           `json:"keepalive_s"`
	Subtype    string            `json:"subtype"`
	Unary      bool              `json:"unary"`
	Paused     bool              `json:"paused"`
	Message    []byte            `json:"message"`
}

// TLSFiles are what a connection trusts, and shows if Cert is not empty.
type TLSFiles struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Event is one line on stdout.
type Event struct {
	Event      string              `json:"event"`
	Connection int                 `json:"connection,omitempty"`
	Call       int                 `json:"call,omitempty"`
	Message    []byte              `json:"message,omitempty"`
	Code       uint32              `json:"code"`
	Details    string              `json:"details,omitempty"`
	Headers    map[string][]string `json:"headers,omitempty"`
	Trailers   map[string][]string `json:"trailers,omitempty"`
	State      string              `json:"state,omitempty"`
}

var (
	out     = bufio.NewWriter(os.Stdout)
	outLock sync.Mutex
)

func emit(event Event) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	outLock.Lock()
	defer outLock.Unlock()
	_, _ = out.Write(append(line, '\n'))
	_ = out.Flush()
}

func main() {
	emit(Event{Event: "started"})
	tunnels := newTunnels()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 1<<20), lineBytesMax)
	for lines.Scan() {
		var command Command
		err := json.Unmarshal(lines.Bytes(), &command)
		if err == nil {
			err = tunnels.do(command)
		}
		if err != nil {
			emit(Event{Event: "failed", Call: command.Call, Connection: command.Connection, Details: fmt.Sprintf("%s: %v", command.Do, err)})
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
