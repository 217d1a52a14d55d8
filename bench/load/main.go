// Load for the gateway's benchmark, and the upstream behind it: both as cheap as can be, so that what is measured is
// what stands between them.
//
//	load upstream -listen 127.0.0.1:9000
//	load run -address 127.0.0.1:8443 -path /api/v1/bench/things -tokens FILE -connections 32 -seconds 10 [-rate 2000]
//
// `run` prints one JSON object. With -rate, requests are due at fixed times and a latency counts from when its request
// was due, so that a server that stalls can't hide it.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("say upstream or run")
	}
	switch os.Args[1] {
	case "upstream":
		upstream(os.Args[2:])
	case "run":
		run(os.Args[2:])
	default:
		fail("say upstream or run")
	}
}

func fail(reason string) {
	fmt.Fprintln(os.Stderr, "load: "+reason)
	os.Exit(1)
}

var answer = []byte("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

func upstream(arguments []string) {
	flags := flag.NewFlagSet("upstream", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "host:port")
	_ = flags.Parse(arguments)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fail(err.Error())
	}
	fmt.Println(listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail(err.Error())
		}
		go serve(connection)
	}
}

// serve answers each request head; requests of the benchmark have no body.
func serve(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 16<<10)
	for {
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) <= 2 {
				break
			}
		}
		if _, err := connection.Write(answer); err != nil {
			return
		}
	}
}

type result struct {
	latencies []time.Duration
	statuses  map[int]int
	err       error
}

func run(arguments []string) {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	address := flags.String("address", "", "host:port, TLS")
	path := flags.String("path", "/", "what to ask for")
	tokens := flags.String("tokens", "", "a file with a bearer token a line, taken in turn")
	connections := flags.Int("connections", 32, "connections, one request at a time on each")
	seconds := flags.Float64("seconds", 10, "how long")
	rate := flags.Float64("rate", 0, "requests a second in all; 0 is as many as fit")
	_ = flags.Parse(arguments)
	requests := prepared(*address, *path, *tokens)
	results := make([]result, *connections)
	var ready, done sync.WaitGroup
	begin := make(chan time.Time)
	for at := range results {
		ready.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			connection, err := tls.Dial("tcp", *address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			ready.Done()
			if err != nil {
				results[at].err = err
				return
			}
			defer connection.Close()
			start := <-begin
			pause := time.Duration(0)
			if *rate > 0 {
				pause = time.Duration(float64(*connections) / *rate * float64(time.Second))
				start = start.Add(pause * time.Duration(at) / time.Duration(*connections))
			}
			length := time.Duration(*seconds * float64(time.Second))
			results[at] = ask(connection, requests, at, start, pause, length)
		}()
	}
	ready.Wait()
	started := time.Now()
	for range results {
		select {
		case begin <- started:
		case <-time.After(100 * time.Millisecond):
		}
	}
	done.Wait()
	report(results, time.Since(started))
}

func prepared(address, path, tokens string) [][]byte {
	lines := []string{""}
	if tokens != "" {
		text, err := os.ReadFile(tokens)
		if err != nil {
			fail(err.Error())
		}
		lines = strings.Fields(string(text))
	}
	requests := make([][]byte, len(lines))
	for at, token := range lines {
		head := "GET " + path + " HTTP/1.1\r\nhost: " + address + "\r\n"
		if token != "" {
			head += "authorization: Bearer " + token + "\r\n"
		}
		requests[at] = []byte(head + "\r\n")
	}
	return requests
}

func ask(connection net.Conn, requests [][]byte, at int, start time.Time, pause, length time.Duration) result {
	found := result{statuses: map[int]int{}}
	reader := bufio.NewReaderSize(connection, 16<<10)
	due, end := start, start.Add(length)
	for number := at; ; number++ {
		now := time.Now()
		if pause > 0 {
			if wait := due.Sub(now); wait > 0 {
				time.Sleep(wait)
			}
			now, due = due, due.Add(pause)
		}
		if now.After(end) {
			return found
		}
		_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
		if _, found.err = connection.Write(requests[number%len(requests)]); found.err != nil {
			return found
		}
		status, err := read(reader)
		if err != nil {
			found.err = err
			return found
		}
		found.statuses[status]++
		found.latencies = append(found.latencies, time.Since(now))
	}
}

func read(reader *bufio.Reader) (int, error) {
	status, length := 0, 0
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if status == 0 {
			if len(line) < 12 {
				return 0, fmt.Errorf("no status line: %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		} else if value, is := bytes.CutPrefix(line, []byte("content-length: ")); is {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		} else if bytes.HasPrefix(line, []byte("transfer-encoding:")) {
			return 0, fmt.Errorf("a chunked answer, status %d", status)
		}
	}
	_, err := io.CopyN(io.Discard, reader, int64(length))
	return status, err
}

func report(results []result, took time.Duration) {
	var all []time.Duration
	statuses, problems := map[string]int{}, map[string]int{}
	for _, found := range results {
		all = append(all, found.latencies...)
		for status, count := range found.statuses {
			statuses[strconv.Itoa(status)] += count
		}
		if found.err != nil {
			problems[found.err.Error()]++
		}
	}
	slices.Sort(all)
	quantile := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(share*float64(len(all)-1))].Microseconds()) / 1000
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests": len(all), "seconds": took.Seconds(), "per_second": float64(len(all)) / took.Seconds(),
		"p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "statuses": statuses, "errors": problems,
	})
}
