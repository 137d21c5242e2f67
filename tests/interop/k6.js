// What each virtual user of k6 does; see with_k6.py.
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import grpc from 'k6/net/grpc';
import { check, fail } from 'k6';

const SERVICE = 'inference.GRPCInferenceService';
const PROTO = 'hiddenstate_server/inference/open_inference.proto';

export const options = {
  vus: Number(__ENV.USERS),
  iterations: Number(__ENV.ITERATIONS),
  thresholds: { checks: ['rate==1'] },
};

const client = new grpc.Client();
client.load([__ENV.PROTO], PROTO);

function floats(base64) {
  return Array.from(new Float32Array(encoding.b64decode(base64)));
}

function number(name, model, values, shape, parameters) {
  return {
    model_name: model,
    inputs: [{ name: name, datatype: 'FP32', shape: shape, contents: { fp32_contents: values } }],
    parameters: parameters || {},
  };
}

function step(id, value, start, end) {
  return number('x', 'sum', [value], [1, 1], {
    sequence_id: { string_param: id },
    sequence_start: { bool_param: start },
    sequence_end: { bool_param: end },
  });
}

export default function () {
  if (exec.vu.iterationInScenario === 0) {
    client.connect(__ENV.ADDRESS, { plaintext: true });
  }
  const scaled = client.invoke(`${SERVICE}/ModelInfer`, number('x', 'scale', [1, 2, 3, 4], [1, 4]));
  check(scaled, {
    'ModelInfer is answered': (r) => r.status === grpc.StatusOK,
    'ModelInfer doubles': (r) => String(floats(r.message.rawOutputContents[0])) === '2,4,6,8',
  });

  const id = `${exec.vu.idInTest}/${exec.vu.iterationInScenario}`;
  const totals = [1, 2, 3].map((value) => {
    const r = client.invoke(`${SERVICE}/ModelInfer`, step(id, value, value === 1, value === 3));
    return r.status === grpc.StatusOK ? floats(r.message.rawOutputContents[0])[0] : fail(r.error.message);
  });
  check(totals, { 'a sequence adds up': (t) => String(t) === '1,3,6' });

  const after = client.invoke(`${SERVICE}/ModelInfer`, step(id, 1, false, false));
  check(after, { 'a step after the end is refused': (r) => r.status === grpc.StatusFailedPrecondition });

  const streamed = [];
  const stream = new grpc.Stream(client, `${SERVICE}/ModelStreamInfer`);
  stream.on('data', (reply) => streamed.push(reply.errorMessage || floats(reply.inferResponse.rawOutputContents[0])[0]));
  stream.on('error', (error) => fail(error.message));
  stream.on('end', () => check(streamed, { 'a streamed sequence adds up': (t) => String(t) === '10,20,30' }));
  for (const turn of [0, 1, 2]) {
    stream.write(step(`${id} streamed`, 10, turn === 0, turn === 2));
  }
  stream.end();
}
