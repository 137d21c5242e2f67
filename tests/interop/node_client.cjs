// A client on @grpc/grpc-js: node node_client.cjs FOLDER_OF_NODE_MODULES PROTO_FOLDER ADDRESS; see with_node.py.
'use strict';
const assert = require('node:assert/strict');
const { createRequire } = require('node:module');
const path = require('node:path');

const [modules, protos, address] = process.argv.slice(2);
const installed = createRequire(path.join(modules, 'package.json'));
const grpc = installed('@grpc/grpc-js');
const loader = installed('@grpc/proto-loader');

const definition = loader.loadSync('hiddenstate_server/inference/open_inference.proto', {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  defaults: true,
  oneofs: true,
});
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

function call(method, message) {
  return new Promise((resolve, reject) => {
    client[method](message, { deadline: Date.now() + 30_000 }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

function raw(...values) {
  return Buffer.from(new Float32Array(values).buffer);
}

function floats(buffer) {
  return values(buffer, 4, (at) => buffer.readFloatLE(at));
}

function values(buffer, size, read) {
  return Array.from({ length: buffer.length / size }, (_, index) => read(index * size));
}

function texts(buffer) {
  const found = [];
  for (let at = 0; at < buffer.length; at += 4 + buffer.readUInt32LE(at)) {
    found.push(buffer.toString('utf8', at + 4, at + 4 + buffer.readUInt32LE(at)));
  }
  return found;
}

function step(id, value, start, end) {
  return {
    model_name: 'sum',
    id: `${id}/${value}`,
    inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 1] }],
    raw_input_contents: [raw(value)],
    parameters: {
      sequence_id: typeof id === 'number' ? { int64_param: id } : { string_param: id },
      sequence_start: { bool_param: start },
      sequence_end: { bool_param: end },
    },
  };
}

function stream(messages) {
  return new Promise((resolve, reject) => {
    const replies = [];
    const open = client.ModelStreamInfer({ deadline: Date.now() + 30_000 });
    open.on('data', (reply) => replies.push(reply));
    open.on('error', reject);
    open.on('end', () => resolve(replies));
    messages.forEach((message) => open.write(message));
    open.end();
  });
}

async function main() {
  assert.equal((await call('ServerReady', {})).ready, true);
  assert.equal((await call('ModelMetadata', { name: 'scale' })).platform, 'onnxruntime_onnx');
  const config = (await call('ModelConfig', { name: 'sum' })).config;
  assert.equal(config.scheduling_choice, 'sequence_batching');

  const inputs = [{ name: 'x', datatype: 'FP32', shape: [2, 4] }];
  const scaled = await call('ModelInfer', { model_name: 'scale', inputs, raw_input_contents: [raw(1, 2, 3, 4, 5, 6, 7, 8)] });
  assert.deepEqual(floats(scaled.raw_output_contents[0]), [2, 4, 6, 8, 10, 12, 14, 16]);

  const text = { bytes_contents: [Buffer.from('I would like to')] };
  const words = await call('ModelInfer', {
    model_name: 'tiny-lm',
    inputs: [{ name: 'text', datatype: 'BYTES', shape: [1], contents: text }],
    outputs: [{ name: 'words' }],
  });
  assert.equal(texts(words.raw_output_contents[0]).length, 5);
  console.log(`  node: next words ${JSON.stringify(texts(words.raw_output_contents[0]))}`);

  for (const id of [7, 'seven']) {
    const totals = [];
    for (const value of [1, 2, 3]) {
      totals.push(floats((await call('ModelInfer', step(id, value, value === 1, value === 3))).raw_output_contents[0])[0]);
    }
    assert.deepEqual(totals, [1, 3, 6]);
    await assert.rejects(call('ModelInfer', step(id, 4, false, false)), { code: grpc.status.FAILED_PRECONDITION });
  }

  const both = [1, 2, 3].flatMap((turn) => ['a', 'b'].map((id, index) => step(id, turn * 10 ** index, turn === 1, turn === 3)));
  const replies = await stream([...both, step('stray', 1, false, false)]);
  const stray = replies.pop();
  assert.deepEqual(replies.map((reply) => floats(reply.infer_response.raw_output_contents[0])[0]), [1, 10, 3, 30, 6, 60]);
  assert.match(stray.error_message, /sequence 'stray' is not known here/);
  console.log('  node: unary and streamed sequences add up, a stray step is refused');

  await assert.rejects(call('ModelInfer', { model_name: 'nobody' }), { code: grpc.status.NOT_FOUND });
  const index = await call('RepositoryIndex', { ready: true });
  assert.deepEqual(index.models.map((model) => model.name), ['echo', 'scale', 'sum', 'tiny-encoder', 'tiny-lm']);
  console.log(`  node: ${index.models.length} models are ready`);
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
